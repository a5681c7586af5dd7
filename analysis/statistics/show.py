"""Statistics as people and programs read them: table, JSON, CSV."""

from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analysis.printing import plain, to_csv, to_json
from analysis.statistics.answer import Statistics

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_SMALLEST: Final = 1e-4
"""A p below it is written as less than it."""


def as_json(found: Statistics) -> str:
    """Effects, correlations and assumptions as lists of objects, and the notes. What is unknown is null."""
    frames = {name: getattr(found, name).to_dicts() for name in ("effects", "correlations", "assumptions")}
    return to_json({"notes": found.notes, **frames})


def as_csv(found: Statistics) -> str:
    """The effects alone."""
    return to_csv(found.effects)


def as_table(found: Statistics) -> "Group":
    """For a terminal of 80 columns: notes; per response its tests, effects and assumptions; correlations.

    Every p is corrected by Holm.
    """
    from rich.console import Group

    parts: list[Any] = [plain(note, "yellow") for note in found.notes]
    for (response, pool), rows in found.effects.partition_by("response", "pool", as_dict=True).items():
        title = f"{response}" if pool == "all" else f"{response}, {pool}"
        checked = found.assumptions.filter(pl.col("response") == response, pl.col("pool") == pool)
        tests, levels = rows.filter(pl.col("level").is_null()), rows.filter(pl.col("level").is_not_null())
        parts += [
            _table(f"{title}: what drives it (p after Holm's correction)", [_test(row) for row in tests.to_dicts()]),
            _table(f"{title}: by how much, with 95 % intervals", [_level(row) for row in levels.to_dicts()]),
            _table(f"{title}: what that assumes", [_assumption(row) for row in checked.to_dicts()]),
        ]
    parts += [
        _table(f"rank correlations, {pool}", [_pair(row) for row in rows.to_dicts()])
        for (pool,), rows in found.correlations.partition_by("pool", as_dict=True).items()
    ]
    return Group(*parts)


def _test(row: dict[str, Any]) -> dict[str, str]:
    return {
        "term": row["term"],
        "df": f"{row['df']}, {row['df_residual']}",
        "F": _figure(row["statistic"]),
        "eta2": _figure(row["partial_eta_squared"]),
        "omega2": _figure(row["partial_omega_squared"]),
        "p": _p(row["p_holm"]),
        "p HC3": _p(row["p_robust_holm"]),
    }


def _level(row: dict[str, Any]) -> dict[str, str]:
    told = row["words"] or f"{row['term']} {row['level']}: {row['reason']}"
    return {"effect": told, "n": str(row["n"]), "p": _p(row["p_holm"])}


def _pair(row: dict[str, Any]) -> dict[str, str]:
    between = "-" if row["low"] is None else f"{row['low']:+.2f} to {row['high']:+.2f}"
    rho = "-" if row["rho"] is None else f"{row['rho']:+.2f}"
    pair = f"{row['first']}, {row['second']}"
    return {"between": pair, "n": str(row["n"]), "rho": rho, "95 %": between, "p": _p(row["p_holm"])}


def _assumption(row: dict[str, Any]) -> dict[str, str]:
    holds = {True: "holds", False: "violated", None: "-"}[row["holds"]]
    about = f" over {row['about']}" if row["about"] else ""
    return {"assumption": f"{row['assumption']}{about}", "": holds, "finding": row["finding"]}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"< {_SMALLEST:g}" if value < _SMALLEST else f"{value:.2g}"


def _table(title: str, rows: list[dict[str, str]]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=plain(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in rows[0] if rows else []:
        words = name in {"term", "effect", "between", "assumption", "finding"}
        table.add_column(name, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in rows:
        table.add_row(*(plain(value) for value in row.values()))
    return table

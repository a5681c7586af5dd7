"""The ranking as people and programs read it: table, JSON, CSV."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analysis import marks
from analysis.candidates import Energy
from analysis.comparable import differing
from analysis.kinds import ESTIMATED, MIXED
from analysis.load import Results
from analysis.ranking import Phi, left_out, ranking
from analysis.versions import differences, in_words

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

_IF_VARIED: Final = ["gpu_kind", "model", "model_revision", "tasks", "finetune_method", "seeds", "seed", "g CO2e"]
"""Columns of the table that appear only where rows differ in them."""

_HEADINGS: Final = {"finetune_method": "tuning", "gpu_kind": "GPU"}
"""Shorter than the columns' names."""

_IF_KNOWN: Final = ["cost"]
"""Columns that appear only where a row has a value."""

_RIGHT: Final = ["#", "R", "phi", "rho", "J/request", "g CO2e", "cost", "J tuning"]

_FOLDED: Final = ["reason", "gpu_kind", "model", "model_revision", "tasks", "pruning"]
"""Columns that may run over several lines."""

_LEFT_OUT: Final = {
    "precision": "precision",
    "pruning": "pruning",
    "pruning_applied": "applied",
    "seed": "seed",
    "state": "state",
    "reason": "reason",
}
"""Columns of the left-out list, and their headings."""

_LISTED: Final = 12
"""More that is left out than this is shown by reason."""

_MARKED: Final = "!"
"""Stands after the joules of a row that carries marks, and before the notes about them."""

_GROUPED: Final = (1e3, 1e9)
"""From and below which a number is written out, in groups of three digits."""


@dataclass(frozen=True)
class Answer:
    """A ranking with what has to be said beside it.

    Attributes:
        rows: as `analysis.ranking.ranking` returns them.
        left_out: as `analysis.ranking.left_out` returns them.
        notes: what the reader has to know before believing the rows, one line each.
    """

    weight: float
    requests: int
    phi: Phi
    energy: Energy
    rows: pl.DataFrame
    left_out: pl.DataFrame
    notes: list[str]


def answer(
    results: Results,
    weight: float = 0.5,
    requests: int = 10_000,
    phi: Phi = "minmax",
    *,
    energy: Energy = "gross",
    allow_mixed: bool = False,
    asked_only: bool = True,
    gpu_kind: str | None = None,
) -> Answer:
    """Rank, and collect who is left out and what to be careful about. As `analysis.ranking.ranking`, refusals too."""
    of: dict[str, Any] = {"energy": energy, "asked_only": asked_only, "gpu_kind": gpu_kind}
    ranked = ranking(results, weight, requests, phi, allow_mixed=allow_mixed, **of)
    rows, others, unplanned = pl.collect_all([ranked, left_out(results, **of), _unplanned(results)])
    notes = [*_notes(rows, phi, energy), *results.problems]
    if versions := in_words(differences(results, asked_only=asked_only)):
        notes.append(f"versions differ: {versions}")
    if results.has_plan and unplanned.height:
        what = "not compared; --all ranks them too" if asked_only else "compared all the same"
        notes.append(f"finished stages that are not in the plan: {unplanned.height}, {what}")
    return Answer(weight, requests, phi, energy, rows, others, notes)


def _unplanned(results: Results) -> pl.LazyFrame:
    return results.stages.filter(pl.col("kind") == "inference").join(results.plan, on="stage_id", how="anti")


def _notes(rows: pl.DataFrame, phi: Phi, energy: Energy) -> Iterator[str]:
    kinds, devices = set(rows["energy_kind"]), sorted(set(rows["devices"].explode()))
    if rows.is_empty():
        yield "nothing to rank yet"
    if energy == "net":
        yield "net: joules, carbon and cost are those beyond what the machines draw when idle"
    if kinds == {ESTIMATED}:
        yield "all energy is estimated: it comes from a model, not from a hardware counter"
    if kinds == {MIXED}:
        yield "energy is estimated in part in every row: some of its joules come from a model, not from a counter"
    if difference := differing(rows):
        yield f"mixed: {difference}; ranked against each other all the same"
    if rows["mixed_devices"].any():
        yield f"mixed: energy of different devices is ranked against each other: {', '.join(devices)}"
    if len(currencies := rows["currency"].drop_nulls().unique().sort()) > 1:
        yield f"cost: in several currencies, which the rows of --format json name: {', '.join(currencies)}"
    if (rows["energy_from"] == "dense parent").any():
        yield "* simulated pruning saves no energy: ranked with the energy of its dense parent"
    if (rows["energy_from"] == "own (no dense parent)").any():
        yield "** simulated pruning without a dense parent to take the energy from: ranked with its own"
    yield from (f"{_MARKED} {note}" for note in marks.notes(rows))
    if rows.height and phi == "minmax" and (rows["phi_minmax"] == 1).all():
        yield "all rows have the same energy per request: phi is 1 and says nothing"


def as_table(answer: Answer) -> "Group":
    """For a terminal of 80 columns: notes, ranking, left out. Energy and carbon are per request."""
    from rich.console import Group

    title = f"R = {answer.weight:g} phi + {1 - answer.weight:g} rho, phi {answer.phi}, over {answer.requests} requests"
    title += ", net of idle" if answer.energy == "net" else ""
    rows = answer.rows.with_columns(_precisions())
    currencies = rows["currency"].drop_nulls().unique().to_list()
    headings = _HEADINGS | ({"cost": currencies[0]} if len(currencies) == 1 else {})
    tables = [_table(title, [_cells(row) for row in rows.iter_rows(named=True)], headings)]
    if not answer.left_out.is_empty():
        shown = answer.left_out.with_columns(_precisions())
        lines = _by_reason(shown) if shown.height > _LISTED else shown.select(*_LEFT_OUT).rename(_LEFT_OUT)
        tables += [_table(f"left out: {shown.height}", lines.to_dicts(), {})]
    return Group(*(plain(note, "yellow") for note in answer.notes), *tables)


def _by_reason(left_out: pl.DataFrame) -> pl.DataFrame:
    """One line for all that is left out of a precision for the same reason."""
    return (
        left_out.group_by("precision", "state", "reason", maintain_order=True)
        .agg(
            pruning=pl.when(pl.len() > 1).then(pl.format("{} of them", pl.len())).otherwise(pl.first("pruning")).first()
        )
        .select("precision", "pruning", "state", "reason")
    )


def _precisions() -> pl.Expr:
    """nf4, or bf16→nf4 of what was fine-tuned in another precision than it is served in."""
    served, tuned = pl.col("precision"), pl.col("finetune_precision")
    differs = (tuned != served).fill_null(value=False)
    return pl.when(differs).then(pl.format("{}→{}", tuned, served)).otherwise(served).alias("precision")


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    mark = {"own": "", "dense parent": " *"}.get(row["energy_from"], " **") + (f" {_MARKED}" if row["marks"] else "")
    return {
        "#": row["rank"],
        **{name: row[name] for name in _IF_VARIED if name in row},
        "precision": row["precision"],
        "pruning": " ".join(filter(None, [row["pruning"], row["pruning_applied"]])),
        "R": f"{row['score']:.3f}",
        "phi": f"{row['phi']:.3f}",
        "rho": f"{row['rho']:.3f}",
        "J/request": number(row["energy_j_per_request"]) + mark,
        "g CO2e": number(row["carbon_g_per_request"]),
        "cost": None if row["cost_per_request"] is None else number(row["cost_per_request"]),
        "J tuning": number(row["finetune_energy_j"]),
        "energy": row["energy_kind"],
        "seeds": row["seeds"],
    }


def _table(title: str, rows: list[dict[str, Any]], headings: dict[str, str]) -> "Table":
    """A table of the rows' values; of the columns in `_IF_VARIED` those where rows differ, of `_IF_KNOWN` the known."""
    from rich import box
    from rich.table import Table

    table = Table(title=plain(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    values = {name: {str(row[name]) for row in rows} for name in (rows[0] if rows else [])}
    names = [name for name in values if name not in _IF_VARIED or len(values[name]) > 1]
    names = [name for name in names if name not in _IF_KNOWN or any(row[name] is not None for row in rows)]
    for name in names:
        right = name in _RIGHT
        table.add_column(
            plain(headings.get(name, name.replace("_", " "))),
            justify="right" if right else "left",
            no_wrap=name not in _FOLDED,
            overflow="fold",
            min_width=max(map(len, values[name])) if right else None,  # a number that is cut is another number
        )
    for row in rows:
        table.add_row(*(plain(row[name]) for name in names))
    return table


def plain(value: object, style: str = "") -> "Text":
    """A value as text of a table cell: no markup, no control characters."""
    from rich.text import Text

    if isinstance(value, list):
        value = ", ".join(map(str, value))
    text = "-" if value is None else str(value)
    return Text("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text), style)


def number(value: float | None) -> str:
    """Three significant digits, without an exponent where that is short; unknown is a question mark."""
    if value is None:
        return "?"
    return f"{value:,.0f}" if _GROUPED[0] <= abs(value) < _GROUPED[1] else f"{value:.3g}"


def as_json(answer: Answer) -> str:
    """Weight, requests, phi, notes, rows and left-out rows. What is unknown or not a number is null."""
    content = {
        "weight": answer.weight,
        "requests": answer.requests,
        "phi": answer.phi,
        "energy": answer.energy,
        "notes": answer.notes,
        "rows": [
            row | {"applied": row["pruning_applied"], "quality": _by_metric(row["quality"])}
            for row in answer.rows.to_dicts()
        ],
        "left_out": answer.left_out.to_dicts(),
    }
    return to_json(content)


def as_csv(answer: Answer) -> str:
    """The ranked rows alone: a column per metric, lists joined by spaces, empty where unknown."""
    rows = [row | _by_metric(row.pop("quality")) for row in answer.rows.to_dicts()]
    return to_csv(pl.DataFrame(rows, infer_schema_length=None) if rows else answer.rows.drop("quality"))


def _by_metric(quality: list[dict[str, Any]]) -> dict[str, float]:
    return {f"{part['task']}.{part['metric']}": part["value"] for part in quality}


def to_json(content: Any, indent: int | None = 2) -> str:
    """Strict JSON: a float that is not finite becomes null, a time ISO 8601 text."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(frame: pl.DataFrame) -> str:
    """CSV with lists of values joined by spaces, and anything deeper as JSON."""
    return frame.with_columns(_flat(column) for column in frame if column.dtype.is_nested()).write_csv()


def _flat(column: pl.Series) -> pl.Series:
    if column.dtype in [pl.List(kind) for kind in (pl.String, pl.Int64, pl.Float64)]:
        return column.cast(pl.List(pl.String)).list.join(" ")
    return pl.Series(
        column.name, [None if value is None else to_json(value, indent=None) for value in column.to_list()], pl.String
    )

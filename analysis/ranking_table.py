"""A ranking on a terminal: the answer, the table, what to know about it, and who is left out."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analysis.labels import both_precisions, precision_of
from analysis.metrics import METRICS, Metric
from analysis.notes import BORROWED, MARKED, TIED
from analysis.printing import number, plain, share
from analysis.show import Answer
from analysis.terminal import TerminalTable

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

_VARIED: Final = ["gpu_kind", "model", "model_revision", "tasks", "finetune_method"]
"""Columns of a ranking that stand before precision and pruning where rows differ in them."""

_COLUMNS: Final[dict[str, Any]] = {
    "right": ["#", "R", "phi", "rho", "ranked by", "g CO2e", "cost", "J tuning", "best"],
    "folded": [*_VARIED, "pruning"],
    "if_varied": [*_VARIED, "energy", "seeds"],
    "if_known": ["R within", "rho within", "J within", "best", "g CO2e", "cost"],
    "giving_way": ["g CO2e", "J tuning", "rho within", "phi", "cost", "J within"],
}
"""How the columns of the ranking behave."""

_SHARED, _UNDER = "=", "<"
"""Stand after a rank that several rows have, and before that of one that dominates."""

_HEADINGS: Final = {"finetune_method": "tuning", "gpu_kind": "GPU"}
"""Shorter than the columns' names."""

_RANKED_BY: Final[dict[Metric, str]] = {
    "request": "J/request",
    "token": "J/token",
    "correct": "J/correct",
    "edp": "J s/request",
    "carbon": "g CO2e/request",
    "cost": "cost/request",
}

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
"""More that is left out than this is shown by reason, and of longer lists so many are shown."""

_LINE: Final = 24
"""Characters for the weights from 0 to 1."""

Cells = dict[str, Any]


def as_table(answer: Answer, *, weights: bool = False, break_even: bool = False) -> "Group":
    """For a terminal, of 80 columns too: the sentence, the ranking, notes, left out.

    Args:
        answer: what to show.
        weights: whether to show who is best at which weight, and where the order changes.
        break_even: whether to show from how many requests on another configuration takes fewer joules.
    """
    from rich.console import Group

    parts: list[RenderableType] = []
    if not answer.rows.is_empty():
        ranked = TerminalTable(_ranked(answer), _headings(answer), **_COLUMNS)
        parts += [plain(answer.sentence, "bold"), plain(""), *_titled(_title(answer), ranked)]
    if weights:
        parts += [*_winners(answer), *_crossings(answer)]
    if break_even:
        parts += _break_even(answer)
    parts += [plain(mark) for mark in _legend(answer)]
    parts += [plain(note, "yellow") for note in answer.notes]
    if not answer.left_out.is_empty():
        parts += [plain(""), *_left_out(answer.left_out)]
    return Group(*parts)


def _title(answer: Answer) -> str:
    title = f"R = {answer.weight:g} phi + {1 - answer.weight:g} rho, phi {answer.phi}, over {answer.requests} requests"
    title += ", net of idle" if answer.energy == "net" else ""
    kinds = answer.rows["energy_kind"].unique()
    return title + (f", joules {kinds[0]}" if len(kinds) == 1 else "")


def _headings(answer: Answer) -> dict[str, str]:
    currencies = answer.rows["currency"].drop_nulls().unique().to_list()
    currency = currencies[0] if len(currencies) == 1 else "cost"
    ranked_by = f"{currency}/request" if answer.metric == "cost" else _RANKED_BY[answer.metric]
    within = dict.fromkeys(["R within", "rho within", "J within"], f"{100 * answer.level:g} %")
    return _HEADINGS | within | {"cost": currency, "ranked by": ranked_by}


def _ranked(answer: Answer) -> list[Cells]:
    rows = answer.everything().to_dicts()
    sharing = Counter(row["rank"] for row in rows)
    place = {row["configuration"]: row["rank"] for row in rows}
    several_tied = sum(bool(row["tied_with_best"]) for row in rows) > 1
    return [
        _cells(
            row,
            answer.metric,
            place.get(row["dominated_by"]),
            (_SHARED if sharing[row["rank"]] > 1 else "") + (TIED if several_tied and row["tied_with_best"] else ""),
        )
        for row in rows
    ]


def _cells(row: Cells, metric: Metric, dominated_by: int | None, rank_marks: str) -> Cells:
    joules = " ".join(filter(None, [BORROWED[row["energy_from"]], MARKED if row["marks"] else ""]))
    return {
        "#": f"{row['rank']}{rank_marks}",
        **{name: row[name] for name in _VARIED},
        "precision": precision_of(row),
        "pruning": " ".join(filter(None, [row["pruning"], row["pruning_applied"]])),
        "R": f"{row['score']:.3f}",
        "R within": _between(row["score_low"], row["score_high"], _bounded),
        "phi": f"{row['phi']:.3f}",
        "rho": f"{row['rho']:.3f}",
        "rho within": _between(row["rho_low"], row["rho_high"], _bounded),
        "ranked by": " ".join(filter(None, [number(row["ranked_by"]), joules])),
        "J within": _between(row["energy_low"], row["energy_high"], number),
        "best": None if row["best_probability"] is None else share(row["best_probability"]),
        "Pareto": "front" if row["on_front"] else f"{_UNDER}{dominated_by}",
        **({} if metric == "carbon" else {"g CO2e": _known(row["carbon_g_per_request"])}),
        **({} if metric == "cost" else {"cost": _known(row["cost_per_request"])}),
        "J tuning": number(row["finetune_energy_j"]),
        "energy": row["energy_kind"],
        "seeds": row["seeds"],
    }


def _legend(answer: Answer) -> Iterator[str]:
    """What marks and columns of the ranking mean, of those that it has."""
    if not answer.front["on_front"].all():
        yield f"{_UNDER}n: row n is as good in quality and in energy, and better in one; front: no row is"
    if answer.rows["rank"].n_unique() < answer.rows.height:
        yield f"{_SHARED} equal scores share a rank"
    if answer.uncertainty["tied_with_best"].sum() > 1:
        yield f"{TIED} cannot be told apart from the best one: seeds, repeats and examples drawn anew put it first too"
    if answer.uncertainty["best_probability"].count():
        within = f"beside values: {100 * answer.level:g} % intervals"
        yield f"best: share of resamplings in which it has the highest R; {within}"


def _known(value: float | None) -> str | None:
    return None if value is None else number(value)


def _between(low: float | None, high: float | None, written: Any) -> str | None:
    return None if low is None or high is None else f"{written(low)}\N{EN DASH}{written(high)}"


def _bounded(value: float) -> str:
    """A value that cannot exceed 1, without the 0 before its point."""
    return f"{value:.3f}".removeprefix("0")


def _winners(answer: Answer) -> "list[RenderableType]":
    rows = [
        {"w": f"{start:.3f} to {end:.3f}", "": _stretch(start, end), "configuration": answer.labels[configuration]}
        for start, end, configuration in answer.weights.winners.iter_rows()
    ]
    what = METRICS[answer.metric].what
    return _titled(
        f"who is best, from w = 0, quality alone, to w = 1, {what} alone", TerminalTable(rows, folded=["configuration"])
    )


def _stretch(start: float, end: float) -> str:
    """A part of 0 to 1 as a line."""
    first = min(round(_LINE * start), _LINE - 1)
    return f"{'·' * first}{'━' * (length := max(1, round(_LINE * end) - first))}{'·' * (_LINE - first - length)}"


def _crossings(answer: Answer) -> "list[RenderableType]":
    """Changes of the first places; nearest to the weight that was ranked with where they are too many."""
    changes = answer.weights.crossings
    shown = changes.sort("rank", (pl.col("weight") - answer.weight).abs()).head(_LISTED).sort("weight")
    rows = [
        {"w": f"{at:.3f}", "place": rank, "below": answer.labels[first], "above": answer.labels[second]}
        for at, first, second, rank in shown.iter_rows()
    ]
    headings = {"below": "ahead below w", "above": "ahead above w"}
    title = "where the order changes"
    if shown.height < changes.height:
        title += f", {shown.height} of {changes.height} among the first places"
    return _titled(title, TerminalTable(rows, headings, right=["w", "place"], folded=["below", "above"]))


def _break_even(answer: Answer) -> "list[RenderableType]":
    changes = answer.break_even.drop_nulls("requests").sort("requests")
    shown = changes.head(_LISTED)
    rows = [
        {"requests": number(requests), "below": answer.labels[below], "above": answer.labels[above]}
        for requests, below, above in shown.select("requests", "cheaper_below", "cheaper_above").iter_rows()
    ]
    headings = {"below": "fewer joules below", "above": "fewer joules above"}
    title = f"break-even, fine-tuning included: {changes.height} of {answer.break_even.height} pairs change sides"
    if shown.height < changes.height:
        title += f", the first {shown.height} of them"
    return _titled(title, TerminalTable(rows, headings, right=["requests"], folded=["below", "above"]))


def _left_out(left_out: pl.DataFrame) -> "list[RenderableType]":
    shown = left_out.with_columns(both_precisions())
    lines = _by_reason(shown) if shown.height > _LISTED else shown.select(*_LEFT_OUT).rename(_LEFT_OUT)
    return _titled(
        f"left out: {shown.height}", TerminalTable(lines.to_dicts(), folded=["pruning", "reason"], if_varied=["seed"])
    )


def _by_reason(left_out: pl.DataFrame) -> pl.DataFrame:
    """One line for all that is left out of a precision for the same reason."""
    return (
        left_out.group_by("precision", "state", "reason", maintain_order=True)
        .agg(
            pruning=pl.when(pl.len() > 1).then(pl.format("{} of them", pl.len())).otherwise(pl.first("pruning")).first()
        )
        .select("precision", "pruning", "state", "reason")
    )


def _titled(title: str, table: TerminalTable) -> "list[RenderableType]":
    return [plain(title, "bold"), table]

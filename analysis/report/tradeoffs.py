"""Trade-offs that no weight decides: who is best at which weight, the Pareto front, break-even."""

from collections.abc import Iterator, Mapping
from typing import Final

import polars as pl

from analysis.metrics import METRICS
from analysis.report.section import Section
from analysis.report.table import Column, Table, table_of
from analysis.show import Answer

_PAIRS: Final = 30
"""Break-even points that are listed."""


def tradeoffs_section(answer: Answer) -> Section:
    """What the answer would be for another weight, or another number of requests."""
    dominated = answer.front.filter(~pl.col("on_front")).height
    points = [
        f"{dominated:,} of {answer.front.height:,} configurations are dominated: another one has at least their "
        "quality for at most what they take."
    ]
    return Section("tradeoffs", "Trade-offs", points=points, tables=list(_tables(answer)))


def _tables(answer: Answer) -> Iterator[Table]:
    yield _winners(answer)
    yield _front(answer)
    if pays := _break_even(answer):
        yield pays


def _winners(answer: Answer) -> Table:
    headings: dict[str, str | Column] = {
        "configuration": "configuration",
        "from_weight": Column("best from w =", "0: quality alone counts", numeric=True),
        "to_weight": Column("to w =", f"1: {METRICS[answer.metric].what} alone counts", numeric=True),
    }
    rows = _named(answer.weights.winners, answer.labels, "configuration")
    return table_of(rows, "winners", "Who is best at which weight", headings)


def _front(answer: Answer) -> Table:
    rows = answer.everything().filter("on_front").sort("ranked_by")
    headings: dict[str, str | Column] = {
        "label": "configuration",
        "rho": Column("quality", numeric=True),
        "ranked_by": Column("ranked by", "what phi is computed from: lower is better", numeric=True),
        "rank": Column("#", numeric=True),
    }
    return table_of(rows, "front", "Pareto front: no other is better in quality without taking more", headings)


def _break_even(answer: Answer) -> Table | None:
    """Pairs with the best configuration that change sides; None where there are none."""
    best = answer.rows["configuration"][0]
    of_best = (pl.col("first") == best) | (pl.col("second") == best)
    pairs = answer.break_even.filter(of_best, pl.col("requests").is_not_null()).sort("requests")
    if pairs.is_empty():
        return None
    headings: dict[str, str | Column] = {
        "cheaper_below": "fewer joules below",
        "cheaper_above": "fewer joules above",
        "requests": Column("requests", "at this many both have taken the same, fine-tuning included", numeric=True),
    }
    named = _named(pairs, answer.labels, "cheaper_below", "cheaper_above")
    caption = f"Break-even with {answer.labels[best]}: when has a fine-tuning paid for itself"
    return table_of(named, "break-even", caption, headings, most=_PAIRS)


def _named(frame: pl.DataFrame, names: Mapping[str, str], *columns: str) -> pl.DataFrame:
    return frame.with_columns(pl.col(columns).replace_strict(dict(names), default=None, return_dtype=pl.String))

"""What drives energy and quality, as the page tells it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import polars as pl

from analysis.load import Results
from analysis.report.section import Section
from analysis.report.sure import between
from analysis.report.table import Cell, Column, Table, quantity, table_of
from analysis.statistics import Statistics, statistics

_PAIRS: Final = 60
"""Correlations that are listed."""

_SMALLEST: Final = 1e-4
"""A p below it is written as less than it."""

_ABOUT: Final = (
    "Analysis of variance over finished stages, with seeds as repetitions; p-values are corrected by Holm's method "
    "over all tests of a response. An effect is told against the reference level, with its 95 % interval."
)


def drivers_section(results: Results, *, asked_only: bool) -> Section:
    """Effects, tests, correlations and what they assume."""
    found = statistics(results, asked_only=asked_only)
    notes = [note for note in found.notes if note not in results.problems]
    return Section("drivers", "What drives energy and quality", [_ABOUT], tables=list(_tables(found)), remarks=notes)


def _tables(found: Statistics) -> Iterator[Table]:
    levels = found.effects.filter(pl.col("level").is_not_null())
    tests = found.effects.filter(pl.col("level").is_null())
    if tests.height:
        yield _tests(tests)
    if levels.height:
        yield _effects(levels)
    if found.assumptions.height:
        yield _assumptions(found.assumptions)
    if found.correlations.height:
        yield _correlations(found.correlations)


def _effects(levels: pl.DataFrame) -> Table:
    shown = levels.with_columns(told=pl.coalesce("words", "reason"), term_level=pl.format("{}: {}", "term", "level"))
    headings: dict[str, str | Column] = {
        "response": "response",
        "pool": Column("joules", "whose joules: those of different origins are analysed apart"),
        "term_level": "level",
        "told": Column("effect", wide=True),
        "n": "stages",
        "p_holm": Column("p", "corrected by Holm's method", numeric=True, shown=_p),
    }
    return table_of(shown, "effects", "How much each setting changes", headings, heading=2)


def _tests(tests: pl.DataFrame) -> Table:
    headings: dict[str, str | Column] = {
        "response": "response",
        "pool": "joules",
        "term": "term",
        "statistic": Column("F", numeric=True, shown=quantity),
        "partial_eta_squared": Column(
            "partial eta²", "share of what the other terms leave that this one explains", numeric=True, shown=quantity
        ),
        "partial_omega_squared": Column(
            "partial omega²", "the same, corrected for what chance would explain", numeric=True, shown=quantity
        ),
        "p_holm": Column("p", "corrected by Holm's method", numeric=True, shown=_p),
        "p_robust_holm": Column("p HC3", "the same, robust against unequal variances", numeric=True, shown=_p),
    }
    if tests["reason"].count():
        headings["reason"] = Column("not tested because", wide=True)
    return table_of(tests, "tests", "Which settings matter", headings, heading=2)


def _assumptions(assumptions: pl.DataFrame) -> Table:
    headings: dict[str, str | Column] = {
        "response": "response",
        "pool": "joules",
        "assumption": "assumption",
        "holds": "holds",
        "finding": Column("finding", wide=True),
    }
    return table_of(assumptions, "assumptions", "What the tests assume", headings)


def _correlations(pairs: pl.DataFrame) -> Table:
    strongest = pairs.sort(pl.col("rho").abs(), descending=True, nulls_last=True)
    shown = strongest.with_columns(pl.col("first", "second").str.replace_all("_", " "), within=pl.struct("low", "high"))
    headings: dict[str, str | Column] = {
        "first": "between",
        "second": "and",
        "rho": Column("rank correlation", "Spearman's, from -1 to 1", numeric=True, shown=quantity),
        "within": Column("within", shown=lambda ends: between(**ends)),
        "n": "configurations",
        "p_holm": Column("p", "corrected by Holm's method over all pairs", numeric=True, shown=_p),
        "pool": "joules",
    }
    table = table_of(shown.head(_PAIRS), "correlations", "What goes together: rank correlations", headings)
    return replace(table, more=f"The strongest {_PAIRS} of {pairs.height:,}.") if pairs.height > _PAIRS else table


def _p(value: float | None) -> Cell:
    if value is None:
        return quantity(None)
    return quantity(value) if value >= _SMALLEST else Cell(f"<{_SMALLEST:.4f}", sort=format(value, "g"))

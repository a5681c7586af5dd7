"""What drives energy and quality, as the page tells it."""

from collections.abc import Iterator
from typing import Final

import polars as pl

from analysis.load import Results
from analysis.report.section import Section
from analysis.report.sure import between
from analysis.report.table import Cell, Column, Table, cell, quantity, table_of
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
    if levels.height:
        yield _effects(levels)
    if tests.height:
        yield _tests(tests)
    if found.assumptions.height:
        headings = {"response": "response", "pool": "joules", "assumption": "assumption", "holds": "holds"}
        yield table_of(
            found.assumptions,
            "assumptions",
            "What the tests assume",
            {**headings, "finding": Column("finding", wide=True)},
        )
    if found.correlations.height:
        yield _correlations(found.correlations)


def _effects(levels: pl.DataFrame) -> Table:
    columns = [
        Column("response"),
        Column("joules", "whose joules: those of different origins are analysed apart"),
        Column("level"),
        Column("effect", wide=True),
        Column("stages", numeric=True),
        Column("p", "corrected by Holm's method", numeric=True),
    ]
    rows = [
        [
            cell(row["response"]),
            cell(row["pool"]),
            cell(f"{row['term']}: {row['level']}"),
            cell(row["words"] or row["reason"]),
            cell(row["n"]),
            _p(row["p_holm"]),
        ]
        for row in levels.iter_rows(named=True)
    ]
    return Table("effects", "How much each setting changes", columns, rows, heading=2)


def _tests(tests: pl.DataFrame) -> Table:
    columns = [
        Column("response"),
        Column("joules"),
        Column("term"),
        Column("F", numeric=True),
        Column("partial eta²", "share of what the other terms leave that this one explains", numeric=True),
        Column("partial omega²", "the same, corrected for what chance would explain", numeric=True),
        Column("p", "corrected by Holm's method", numeric=True),
        Column("p HC3", "the same, robust against unequal variances", numeric=True),
        Column("not tested because", wide=True),
    ]
    rows = [
        [
            cell(row["response"]),
            cell(row["pool"]),
            cell(row["term"]),
            quantity(row["statistic"]),
            quantity(row["partial_eta_squared"]),
            quantity(row["partial_omega_squared"]),
            _p(row["p_holm"]),
            _p(row["p_robust_holm"]),
            cell(row["reason"]),
        ]
        for row in tests.iter_rows(named=True)
    ]
    return Table("tests", "Which settings matter", columns, rows, heading=2)


def _correlations(pairs: pl.DataFrame) -> Table:
    columns = [
        Column("between"),
        Column("and"),
        Column("rank correlation", "Spearman's, from -1 to 1", numeric=True),
        Column("within"),
        Column("configurations", numeric=True),
        Column("p", "corrected by Holm's method over all pairs", numeric=True),
        Column("joules"),
    ]
    strongest = pairs.sort(pl.col("rho").abs(), descending=True, nulls_last=True)
    rows = [
        [
            cell(row["first"].replace("_", " ")),
            cell(row["second"].replace("_", " ")),
            quantity(row["rho"]),
            between(row["low"], row["high"]),
            cell(row["n"]),
            _p(row["p_holm"]),
            cell(row["pool"]),
        ]
        for row in strongest.head(_PAIRS).iter_rows(named=True)
    ]
    more = f"The strongest {_PAIRS} of {pairs.height:,}." if pairs.height > _PAIRS else None
    return Table("correlations", "What goes together: rank correlations", columns, rows, more=more)


def _p(value: float | None) -> Cell:
    if value is None:
        return quantity(None)
    return quantity(value) if value >= _SMALLEST else Cell(f"<{_SMALLEST:.4f}", sort=format(value, "g"))

"""What has to be known before a ranking is believed, a line each."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import polars as pl

from analysis import marks
from analysis.candidates import Energy
from analysis.comparable import differing
from analysis.kinds import ESTIMATED, MIXED
from analysis.metrics import EnergyMetric
from analysis.ranking import Phi
from energyaware.errors import few

MARKED: Final = "!"
"""Stands after the joules of a row that carries marks, and before the notes about them."""

BORROWED: Final = {"own": "", "dense parent": "*", "own (no dense parent)": "**"}
"""Stands after joules by whose they are, and before the notes about it."""

_ENDED: Final = ["stopped", "failed", "diverged", "oom", "blocked"]
"""States of stages whose results would not have been like those of the others."""

TIED: Final = "~"
"""Stands after the rank of a row that cannot be told apart from the best one."""


def notes_on(rows: pl.DataFrame, others: pl.DataFrame, phi: Phi, energy: Energy, metric: EnergyMetric) -> Iterator[str]:
    """Notes on where the joules come from."""
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
    yield from (f"{MARKED} {note}" for note in marks.notes(rows))
    all_seeds = rows["seeds"].explode().drop_nulls().unique().sort()
    if fewer := (rows["seeds"].list.len() < len(all_seeds)).sum():
        named = few([str(seed) for seed in all_seeds])
        ended = others["state"].is_in(_ENDED).any()
        worse = "; what was stopped or failed there might have been worse than what is left" if ended else ""
        yield f"seeds: {fewer} of {rows.height} configurations lack some of the seeds {named}{worse}"
    if rows.height and phi == "minmax" and (rows["phi_minmax"] == 1).all():
        yield f"all rows have the same {metric.words}: phi is 1 and says nothing"


def notes_on_tasks(rows: pl.DataFrame, data: Sequence[str]) -> Iterator[str]:
    """Notes on whether all were asked the same.

    Args:
        rows: of a ranking.
        data: names of all data that they were tuned and tested on.
    """
    tasks = sorted({" and ".join(sorted(of)) for of in rows["tasks"].drop_nulls()})
    for asked, what in ((tasks, "tasks"), (data, "data")):
        if len(asked) > 1:
            yield f"mixed: quality is that of different {what}, ranked against each other: {few(asked)}"


def notes_on_order(
    rows: pl.DataFrame, without: Mapping[Phi, pl.DataFrame], phi: Phi, names: Mapping[str, str]
) -> Iterator[str]:
    """Notes on how firm the order is.

    Args:
        rows: of a ranking, best first, joined with `analysis.uncertainty.uncertainty`.
        without: `analysis.tradeoffs.leave_one_out` by phi.
        phi: the one that was ranked with.
        names: labels by configuration.
    """
    yield from _counted(rows["interval_covers"], "intervals rest on")
    yield from _counted(rows["interval_reason"].str.split("; "), "intervals")
    other: Phi = "ratio" if phi == "minmax" else "minmax"
    moved = without[phi].filter("order_changed")
    if moved.height:
        named = "; ".join(_without(row, names) for row in moved.to_dicts())
        firm = not without[other]["order_changed"].any()
        yield f"{phi} depends on who is compared: {named}" + (f"; with {other} it does not" if firm else "")


def _counted(texts: pl.Series, what: str) -> Iterator[str]:
    """Each text once, and how many rows say it where not all do. A row may have several."""
    said = Counter(text for row in texts.to_list() if row for text in ([row] if isinstance(row, str) else row))
    for text, count in said.items():
        yield f"{what}{'' if count == len(texts) else f', in {count} of {len(texts)} configurations'}: {text}"


def _without(row: dict[str, str], names: Mapping[str, str]) -> str:
    change = "the order of the others changes"
    if row["best_before"] != row["best_after"]:
        change = f"{names[row['best_after']]} comes before {names[row['best_before']]}"
    return f"without {names[row['left_out']]}: {change}"

"""A ranking's answer in one sentence: what to deploy, what it saves at what price in quality, and how sure that is."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from analysis.kinds import MEASURED, MIXED
from analysis.metrics import EnergyMetric
from analysis.printing import number, share

_HIGHEST_FIRST: Final = ["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "nf4", "nf4-dq", "fp4"]
"""Precisions by what they keep of a weight: bits, then bits of the fraction, then by error on normal weights."""

_SAME_SHARE: Final = 0.005
"""Energies that agree to this share are the same in a sentence, which gives whole percents."""

_SAME_POINTS: Final = 0.05
"""Points of a hundred within which qualities are the same in a sentence."""

_NAMED: Final = 3
"""Ties of more are counted."""

Row = dict[str, Any]


def baseline_of(rows: pl.DataFrame) -> Row | None:
    """What the best row is held against: the unpruned one of the highest precision, or else the most accurate one.

    Of the unpruned ones those are preferred that are like the best row in model, GPU kind and method.

    Args:
        rows: of a collected ranking, best first.

    Returns:
        One of the rows, which may be the best one itself; None where there are none.
    """
    if rows.is_empty():
        return None
    best, *_ = everyone = rows.to_dicts()
    alike = ["model", "model_revision", "gpu_kind", "finetune_method"]
    dense = [row for row in everyone if row["pruning"] == "none" and row["precision"] in _HIGHEST_FIRST]

    def likest(row: Row) -> tuple[int, int]:
        return sum(row[column] != best[column] for column in alike), _HIGHEST_FIRST.index(row["precision"])

    return min(dense, key=likest) if dense else max(everyone, key=lambda row: float(row["rho"]))


def sentence(rows: pl.DataFrame, weight: float, metric: EnergyMetric, names: Mapping[str, str]) -> str:
    """The answer.

    Args:
        rows: of a collected ranking, best first, joined with `analysis.uncertainty.uncertainty`.
        weight: w that they were ranked with.
        metric: what their `ranked_by` holds, in which unit.
        names: their labels by configuration.
    """
    baseline = baseline_of(rows)
    if baseline is None:
        return "Nothing can be ranked yet."
    best, *others = rows.to_dicts()
    name = names[best["configuration"]]
    if not others:
        worth = f"{number(best['ranked_by'])} {metric.unit} of {metric.words}, quality {best['rho']:.3f}"
        return f"{name} is the only configuration that can be ranked: {worth}."
    level = [names[row["configuration"]] for row in others if row["rank"] == best["rank"]]
    first = f"{_listed([name, *level])} share the first place" if level else f"{name} is the best"
    if best["configuration"] == baseline["configuration"]:
        next_best, place = (others[len(level)], ", the next,") if len(level) < len(others) else (others[0], "")
        held = f"{name if level else 'it'} is the baseline itself; compared with it"
        held += f" {names[next_best['configuration']]}{place} has {_compared(next_best, best, metric)}"
    else:
        against = _role(baseline, names)
        who = f"{against.rstrip(',')}, {name}" if level else f"{against} it"
        held = f"compared with {who} has {_compared(best, baseline, metric)}"
    return f"{first} of {rows.height} at w = {weight:g}: {held}{_sureness(best, others, names)}."


def _role(baseline: Row, names: Mapping[str, str]) -> str:
    name = names[baseline["configuration"]]
    dense = baseline["pruning"] == "none" and baseline["precision"] in _HIGHEST_FIRST
    return f"dense {name}" if dense else f"{name}, the most accurate one,"


def _compared(row: Row, other: Row, metric: EnergyMetric) -> str:
    """Such as: 62 % less energy per request (0.41 against 1.08 J) and 1.2 points less quality (0.731 against 0.743)."""
    energy, points = change_of(row["ranked_by"] / other["ranked_by"]), 100 * (row["rho"] - other["rho"])
    values = f"{number(row['ranked_by'])} against {number(other['ranked_by'])} {metric.unit}".rstrip()
    quality = "the same quality"
    if abs(points) >= _SAME_POINTS:
        more = "more" if points > 0 else "less"
        quality = f"{abs(points):.1f} points {more} quality ({row['rho']:.3f} against {other['rho']:.3f})"
    return f"{energy} {_kind(row, other)}{metric.words} ({values}) and {quality}"


def change_of(ratio: float) -> str:
    """Such as "62 % less", of one energy by another."""
    if abs(ratio - 1) < _SAME_SHARE:
        return "the same"
    return f"{share(1 - ratio)} less" if ratio < 1 else f"{share(ratio - 1)} more"


def _kind(*rows: Row) -> str:
    kinds = {row["energy_kind"] for row in rows}
    if kinds == {MEASURED}:
        return ""
    return "partly estimated " if MIXED in kinds or MEASURED in kinds else "estimated "


def _sureness(best: Row, others: list[Row], names: Mapping[str, str]) -> str:
    """What resampling says of the first place."""
    probability = best["best_probability"]
    if probability is None:
        return "; how sure that is, what was measured cannot tell"
    tied = [names[row["configuration"]] for row in others if row["tied_with_best"]]
    often = "every resampling" if probability == 1 else f"{share(probability)} of resamplings"
    sure = f"; it stays the best in {often} of what was measured"
    return f"{sure}, and cannot be told apart from {_listed(tied)}" if tied else sure


def _listed(names: list[str]) -> str:
    if len(names) > _NAMED:
        names = [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} others"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

"""What is said beside the numbers of an analysis of variance."""

from collections.abc import Iterator
from typing import Any, Final

import polars as pl

from analysis.statistics.anova import Fit
from analysis.statistics.design import Design
from analysis.statistics.responses import Response
from energyaware.errors import few

_CERTAIN: Final = 0.05
"""A corrected p below it is called an effect."""

_NEAR: Final = 0.1


def words(row: dict[str, Any], response: Response) -> str | None:
    """An effect as a sentence; None of a test, or where there is no effect to tell."""
    if row.get("effect") is None:
        return None
    level, reference = (_subject(row["term"], row[part]) for part in ("level", "reference"))
    shown = _ratio if response.scale == "ratio" else "{:.3g}".format
    between = f" [{shown(row['low'])}, {shown(row['high'])}]" if "low" in row else ", without an interval"
    if response.scale == "ratio":
        return f"{level} takes {_ratio(row['effect'])} times the {response.noun} of {reference}{between}"
    return f"{level} changes {response.noun} by {row['effect']:+.3g} against {reference}{between}"


def _ratio(value: float) -> str:
    """Three digits, of what is near 1 of the difference: 1.004 is not 1 times as much."""
    return f"{value:.4g}" if abs(value - 1) < _NEAR else f"{value:.3g}"


def _subject(term: str, level: str) -> str:
    if term == "pruning" and level == "none":
        return "no pruning"
    return level if term in {"precision", "pruning", "model", "device"} else f"{term} {level}"


def shared(rows: pl.DataFrame) -> str:
    """What keeps observations from being independent."""
    found = f"stages share data and machine, and so do seeds ({rows['seed'].n_unique()} here)"
    if rows["kind"][0] == "finetune":
        return found
    start = rows["needs"].list.join(",").replace("", None).drop_nulls()
    if start.n_unique() == 1:
        return f"{found}; all start from one fine-tuning, and do not tell how another would turn out"
    if together := int(start.is_duplicated().sum()):
        found += (
            f"; {together} share their fine-tuning with others, so that what differs between fine-tunings looks surer "
            "than it is"
        )
    return found


def replicates(rows: pl.DataFrame, design: Design) -> Iterator[str]:
    """Whether anything was measured twice, and whether stages that differ are taken for repetitions."""
    combinations = len(set(zip(*(factor.values for factor in design.factors.values()), strict=True)))
    if combinations == rows.height:
        yield (
            "no combination of settings was measured twice: effects are judged by what the terms leave unexplained, "
            "further interactions included; several seeds would tell the two apart"
        )
    if "configuration" in rows.columns and (configurations := rows["configuration"].n_unique()) > combinations:
        yield (
            f"{configurations} configurations share {combinations} combinations of these settings: they differ in "
            "something that is no factor here, and count as repetitions"
        )


def untested(fitted: Fit) -> str:
    """Why there are effects without intervals and without p-values."""
    hint = ": as many effects as stages; more seeds, or fewer settings, would tell" if fitted.df_residual < 1 else ""
    return f"nothing can be tested: {fitted.exact}{hint}"


def violated(checked: list[dict[str, Any]]) -> str | None:
    """Which assumptions do not hold, and what to read then. An unbalanced design is none: type II adjusts for it."""
    broken = [row for row in checked if row.get("holds") is False and row["assumption"] != "balanced design"]
    if not broken:
        return None
    found = few([f"{row['finding']} (p = {row['p']:.2g})" if "p" in row else row["finding"] for row in broken])
    return f"assumptions violated: {found}; read p_robust (HC3) and the rank correlations beside"


def interactions(family: list[dict[str, Any]], response: Response) -> Iterator[str]:
    """Which interactions there are, so that effects of single levels are not the whole story."""
    for row in family:
        if " x " in row["term"] and row.get("p_holm", 1.0) < _CERTAIN:
            yield (
                f"{response.name}: {row['term']} interact (p = {row['p_holm']:.2g}): the effect of one depends on the "
                "other, and effects of their levels are means"
            )

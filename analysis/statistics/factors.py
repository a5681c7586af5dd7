"""What was set differently, as factors with levels, each coded against a reference level."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl

from analysis.statistics.observations import FACTOR, TUNING
from energyaware.errors import few

Columns = np.ndarray[Any, np.dtype[np.float64]]

_ORDER: Final = [
    *("precision", "pruning", "pruning_applied", "batch_size", "sequence_length"),
    *("model", "device", "finetune_method"),
]
"""Factors that come first: of two that vary together the first is kept. Others follow by name, then `_LAST`."""

_LAST: Final = ["tasks", "data", "workers", "sweep", "finetune_precision"]

_WITHIN: Final = {"pruning_applied": "pruning"}
"""Factors that apply only where another is not none. Settings of a fine-tuning apply where there was one."""

_LEVELS: Final = ["none", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4", "nf4", "nf4-dq"]
"""Levels that come first where they occur: the reference is what the others are variants of."""


@dataclass(frozen=True)
class Factor:
    """A setting that differs between observations.

    Attributes:
        levels: the reference first.
        values: the level of each observation; None where the factor does not apply, such as when to prune of a dense
            stage.
    """

    name: str
    levels: tuple[str, ...]
    values: tuple[str | None, ...]

    @property
    def reference(self) -> str:
        """The level that the others are compared with."""
        return self.levels[0]

    @cached_property
    def columns(self) -> Columns:
        """Treatment coding: a column per level but the reference, 1 where it is the observation's."""
        return np.array([[value == level for level in self.levels[1:]] for value in self.values], float)


def factors_of(rows: pl.DataFrame, *, of_tuning: bool) -> tuple[list[Factor], list[str]]:
    """The factors in which observations differ, and which others had to be left out and why.

    Args:
        rows: observations, with columns that start with `FACTOR`.
        of_tuning: whether settings of an inference's fine-tuning are factors.
    """
    names = [name.removeprefix(FACTOR) for name in rows.columns if name.startswith(FACTOR)]
    if not of_tuning:
        names = [name for name in names if not name.startswith(TUNING) and name != "finetune_precision"]
    factors, notes = [], []
    for name in sorted(names, key=_place):
        column = rows[FACTOR + name]
        applies = _applies(rows, name)
        unknown = int((column.is_null() & applies).sum())
        levels = tuple(sorted(column.drop_nulls().unique(), key=_before))
        if len(levels) > 1 and unknown:
            notes.append(f"{name} is no factor: it is not known of {unknown} of {rows.height} stages")
        elif len(levels) > 1:
            factors.append(Factor(name, levels, tuple(column)))
    return factors, notes


def constant(rows: pl.DataFrame, names: Sequence[str] = _ORDER[:5]) -> str | None:
    """Which of the factors that one would ask about have a single level, in words."""
    levels = {name: rows[FACTOR + name].drop_nulls().unique() for name in names if FACTOR + name in rows.columns}
    fixed = [f"{name} (always {of[0]})" for name, of in levels.items() if len(of) == 1]
    return f"not varied, so nothing can be said of: {few(fixed)}" if fixed else None


def _place(name: str) -> tuple[int, int, str]:
    if name in _ORDER:
        return 0, _ORDER.index(name), name
    if name in _LAST:
        return 2, _LAST.index(name), name
    return (3 if name.startswith(TUNING) else 1), 0, name


def _before(level: str) -> tuple[int, float, str]:
    if level in _LEVELS:
        return 0, _LEVELS.index(level), level
    try:
        return 1, float(level), level
    except ValueError:
        return 2, 0.0, level


def _applies(rows: pl.DataFrame, name: str) -> pl.Series:
    within = "finetune_method" if name.startswith(TUNING) else _WITHIN.get(name)
    if within is None:
        return pl.repeat(value=True, n=rows.height, eager=True)
    return rows[FACTOR + within].fill_null("none") != "none"

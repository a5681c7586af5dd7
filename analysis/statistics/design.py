"""Which main effects and interactions a set of observations can tell apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Final

import numpy as np

from analysis.statistics.factors import Columns, Factor
from energyaware.errors import few

Term = tuple[str, ...]
"""Names of the factors of a main effect (one) or an interaction (two)."""

LEAST_RESIDUAL_DF: Final = 5
"""Residual degrees of freedom that interactions have to leave. With 1 an effect must be 12.7 standard errors large to
be told from none at 5 %, with 5 only 2.6; more gains little (2.0 without end)."""

_INDEPENDENT: Final = 1e-7
"""Share of a column's length that must stick out of the others for it to say something of its own."""


class Basis:
    """Columns that are independent of each other, the intercept first, and made orthonormal in their order.

    Attributes:
        orthonormal: observations by columns.
    """

    def __init__(self, observations: int) -> None:
        self.orthonormal: Columns = np.full((observations, 1), observations**-0.5)

    @property
    def rank(self) -> int:
        """How many columns are held."""
        return int(self.orthonormal.shape[1])

    def copy(self) -> "Basis":
        """One to try columns on."""
        other = Basis(len(self.orthonormal))
        other.orthonormal = self.orthonormal
        return other

    def add(self, columns: Columns) -> list[int]:
        """Take in columns; returns the numbers of those that are independent of all before them."""
        kept: list[int] = []
        rests = _sticking_out(columns, self.orthonormal)  # of all that were there, at once: most of the work
        new = np.empty_like(columns)
        for number, (column, rest) in enumerate(zip(columns.T, rests.T, strict=True)):
            left = _sticking_out(rest, new[:, : len(kept)])
            if (length := np.linalg.norm(left)) > _INDEPENDENT * np.linalg.norm(column):
                new[:, len(kept)] = left / length
                kept.append(number)
        self.orthonormal = np.hstack([self.orthonormal, new[:, : len(kept)]])
        return kept


def _sticking_out(columns: Columns, basis: Columns) -> Columns:
    """What of columns is not in the span of an orthonormal basis."""
    for _ in range(2):  # once more: rounding leaves a little of what was taken away
        columns = columns - basis @ (basis.T @ columns)
    return columns


@dataclass(frozen=True)
class Coded:
    """Independent columns of some terms of a design, the intercept first.

    Attributes:
        matrix: observations by columns.
        orthonormal: of the same span as `matrix`, up to every column.
        places: per term the places of its columns.
        kept: per term which of its coded columns these are.
    """

    matrix: Columns
    orthonormal: Columns
    places: dict[Term, list[int]]
    kept: dict[Term, list[int]]


@dataclass(frozen=True)
class Design:
    """The terms of a model of variance.

    Attributes:
        observations: how many there are.
        factors: by name.
        terms: main effects, then interactions.
    """

    observations: int
    factors: dict[str, Factor]
    terms: tuple[Term, ...]

    def columns(self, term: Term) -> Columns:
        """Coded columns of a term: of an interaction the products of those of its factors."""
        return _coded([self.factors[name] for name in term])

    def coded(self, terms: Sequence[Term]) -> Coded:
        """A design matrix of full rank."""
        basis, parts = Basis(self.observations), [np.ones((self.observations, 1))]
        places: dict[Term, list[int]] = {}
        kept: dict[Term, list[int]] = {}
        for term in terms:
            columns, first = self.columns(term), basis.rank
            kept[term] = basis.add(columns)
            places[term] = list(range(first, basis.rank))
            parts.append(columns[:, kept[term]])
        return Coded(np.hstack(parts), basis.orthonormal, places, kept)

    def without(self, term: Term) -> list[Term]:
        """Terms that do not contain a term: what a type II sum of squares adjusts it for."""
        return [other for other in self.terms if not set(term) <= set(other)]

    def can_estimate(self, factor: str, level: int, terms: Sequence[Term]) -> bool:
        """Whether a coded level says something that no other column of the terms says."""
        basis = Basis(self.observations)
        for term in terms:
            columns = self.columns(term)
            basis.add(np.delete(columns, level, axis=1) if term == (factor,) else columns)
        return bool(basis.add(self.columns((factor,))[:, [level]]))


def design_of(factors: Sequence[Factor], observations: int) -> tuple[Design, list[str]]:
    """Main effects in the given order, then two-way interactions as long as enough residual degrees of freedom stay.

    Which interactions are taken depends on the design alone, never on what came out.

    Returns:
        The design; what had to be left out, and why.
    """
    basis, notes = Basis(observations), []
    taken: list[Factor] = []
    for factor in factors:
        others = basis.copy()
        added = len(basis.add(factor.columns))
        if added == 0:
            notes.append(f"{factor.name} is left out: {_twin(factor, taken, observations)}")
            continue
        if added < len(factor.levels) - 1 and others.rank > 1:
            notes.append(f"{factor.name} is told apart from {_names(taken)} only in part: some levels never part ways")
        taken.append(factor)
    terms: list[Term] = [(factor.name,) for factor in taken]
    scarce, alike = [], []
    for pair in combinations(taken, 2):
        tried = basis.copy()
        added = len(tried.add(_coded(pair)))
        name = " x ".join(factor.name for factor in pair)
        if added == 0:
            alike.append(name)
        elif observations - tried.rank < LEAST_RESIDUAL_DF:
            scarce.append(name)
        else:
            basis = tried
            terms.append((pair[0].name, pair[1].name))
    if scarce:
        left = max(observations - basis.rank, 0)
        notes.append(
            f"interactions left out, as they would leave fewer than {LEAST_RESIDUAL_DF} residual degrees of freedom "
            f"(there are {left} without them): {few(scarce)}"
        )
    if alike:
        notes.append(f"interactions left out, as they cannot be told apart from other terms here: {few(alike)}")
    return Design(observations, {factor.name: factor for factor in taken}, tuple(terms)), notes


def _coded(factors: Sequence[Factor]) -> Columns:
    first, *others = (factor.columns for factor in factors)
    for columns in others:
        first = (first[:, :, None] * columns[:, None, :]).reshape(len(first), -1)
    return first


def _twin(factor: Factor, taken: Sequence[Factor], observations: int) -> str:
    """Which factor an aliased one varies together with."""
    for other in taken:
        basis = Basis(observations)
        basis.add(other.columns)
        if not basis.add(factor.columns):
            return f"it varies together with {other.name}, and effects named {other.name} are those of both"
    return f"it follows from {_names(taken)} taken together, and their effects may be its own"


def _names(factors: Sequence[Factor]) -> str:
    return " and ".join(factor.name for factor in factors)


def balance(design: Design) -> tuple[bool, str]:
    """Whether all combinations of levels were observed equally often, and in words."""
    if not design.factors:
        return True, "no factors"
    cells: dict[tuple[str | None, ...], int] = {}
    for values in zip(*(factor.values for factor in design.factors.values()), strict=True):
        cells[values] = cells.get(values, 0) + 1
    fewest, most = min(cells.values()), max(cells.values())
    possible = prod(len(set(factor.values)) for factor in design.factors.values())
    full = len(cells) == possible
    often = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    filled = "all" if full else f"{len(cells)} of"
    return full and fewest == most, f"{filled} {possible} combinations of levels were observed, {often} times each"

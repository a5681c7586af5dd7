"""Analyses of variance of a few values, and what they say of each term and level."""

import numpy as np

from analysis.statistics.anova import fit, rows_of
from analysis.statistics.design import design_of
from analysis.statistics.factors import Factor
from analysis.statistics.responses import RESPONSES

RHO, ENERGY = RESPONSES["quality"], RESPONSES["energy"]


def factor(name, values):
    return Factor(name, tuple(sorted({value for value in values if value is not None})), tuple(values))


def fitted(values, response=RHO, **factors):
    design, _ = design_of([factor(name, levels) for name, levels in factors.items()], len(values))
    return fit(response, design, np.asarray(values, float))


def term_rows(found):
    return [row for row in rows_of(found) if "level" not in row]


def level_rows(found):
    return [row for row in rows_of(found) if "level" in row]


def terms(found):
    return {row["term"]: row for row in term_rows(found)}


def levels(found):
    return {(row["term"], row["level"]): row for row in level_rows(found)}


def crossed(*sizes, replicates=1):
    """Levels a0, a1, … of fully crossed factors, as one list per factor."""
    cells = np.array(list(np.ndindex(*sizes, replicates)))
    return [[f"{name}{number}" for number in column] for name, column in zip("abcd", cells.T, strict=False)][
        : len(sizes)
    ]

"""Which factors and interactions a design can tell apart."""

import numpy as np
import pytest

from analysis.statistics.anova import fit
from analysis.statistics.design import LEAST_RESIDUAL_DF, design_of
from analysis.statistics.factors import Factor
from tests.analysis.fitted import RHO, crossed, factor, fitted, levels, terms


def test_a_factor_that_later_ones_leave_nothing_of_says_so():
    found = fitted([3.0, 3.1, 1.0, 1.2, 1.1, 1.4], precision=list("bbnnnn"), sweep=list("112233"))
    row = terms(found)["precision"]
    assert (row["df"], row.get("p"), row["reason"]) == (
        0,
        None,
        "cannot be told apart from the effects of other factors in this design",
    )
    assert terms(found)["sweep"]["p"] is not None


def test_interactions_are_taken_as_long_as_enough_residual_degrees_of_freedom_stay():
    a, b, c = crossed(3, 3, 3)
    design, notes = design_of([factor("a", a), factor("b", b), factor("c", c)], 27)
    assert design.terms == (("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"))  # 27 - 1 - 6 - 12 = 8 are left
    assert notes == []
    a, b = crossed(3, 4)
    design, (note,) = design_of([factor("a", a), factor("b", b)], 12)
    assert design.terms == (("a",), ("b",))
    assert f"fewer than {LEAST_RESIDUAL_DF} residual degrees of freedom (there are 6 without them): a x b" in note


def test_a_factor_that_varies_together_with_another_is_left_out_and_both_are_named():
    values = list("xxyyzz")
    design, (note,) = design_of([factor("a", values), factor("b", [value.upper() for value in values])], 6)
    assert design.terms == (("a",),)
    assert note == "b is left out: it varies together with a, and effects named a are those of both"


def test_a_factor_that_follows_from_two_others_together_is_left_out():
    a, b = crossed(2, 2, replicates=3)
    same = ["same" if first[1] == second[1] else "other" for first, second in zip(a, b, strict=True)]
    both = [first + second for first, second in zip(a, b, strict=True)]
    design, notes = design_of([factor("ab", both), factor("same", same)], 12)
    assert "same is left out: it varies together with ab, and effects named ab are those of both" in notes
    design, notes = design_of([factor("a", a), factor("b", b), factor("same", same)], 12)
    assert design.terms == (("a",), ("b",), ("same",))
    assert any("cannot be told apart from other terms here: a x b, a x same, b x same" in note for note in notes)


def test_levels_that_never_part_ways_have_no_effect_of_their_own_and_the_others_do():
    a = ["x", "x", "x", "y", "y", "y", "z", "z", "z", "x", "y"]
    b = ["u", "u", "v", "u", "v", "v", "w", "w", "w", "v", "u"]  # z comes with w only, and w with z only
    found = fitted(np.random.default_rng(8).normal(size=11), a=a, b=b)
    rows = levels(found)
    assert rows["a", "y"]["low"] < rows["a", "y"]["high"]
    assert rows["b", "v"]["low"] < rows["b", "v"]["high"]
    for lost in (("a", "z"), ("b", "w")):
        assert rows[lost].keys() & {"effect", "p"} == set()
        assert "cannot be told apart" in rows[lost]["reason"]
    assert (terms(found)["a"]["df"], terms(found)["b"]["df"]) == (1, 1)
    _, notes = design_of([factor("a", a), factor("b", b)], 11)
    assert "b is told apart from a only in part: some levels never part ways" in notes


def test_an_empty_cell_costs_an_interaction_a_degree_of_freedom():
    a, b = crossed(3, 3, replicates=2)
    kept = [i for i in range(18) if (a[i], b[i]) != ("a2", "b2")]
    a, b = [a[i] for i in kept], [b[i] for i in kept]
    assert terms(fitted(np.random.default_rng(9).normal(size=16), a=a, b=b))["a x b"]["df"] == 3


def test_where_a_factor_does_not_apply_its_levels_are_compared_among_the_others():
    pruning = ["none"] * 4 + ["heads"] * 8
    applied = [None] * 4 + ["after"] * 4 + ["before"] * 4
    values = np.array([1.0] * 4 + [2.0] * 4 + [2.5] * 4) + np.tile([-0.01, 0.01], 6)
    design, notes = design_of(
        [Factor("pruning", ("none", "heads"), tuple(pruning)), Factor("applied", ("after", "before"), tuple(applied))],
        12,
    )
    rows = levels(fit(RHO, design, values))
    assert rows["pruning", "heads"]["effect"] == pytest.approx(1.0)
    assert rows["applied", "before"]["effect"] == pytest.approx(0.5)
    assert rows["applied", "before"]["n"] == 4
    assert any("pruning x applied" in note for note in notes)

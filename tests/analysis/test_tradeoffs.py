"""Pareto front, break-even and leave-one-out: worked by hand, and against plain loops."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.tradeoffs import break_even, leave_one_out, pareto


def rows(**values: tuple[float, float]) -> pl.DataFrame:
    """Configurations by quality and energy."""
    columns = {"configuration": pl.String, "rho": pl.Float64, "ranked_by": pl.Float64}
    return pl.DataFrame([(name, *both) for name, both in values.items()], columns, orient="row")


def costs(**values: tuple[float, float]) -> pl.DataFrame:
    """Configurations by joules of fine-tuning and of inference per request."""
    columns = {
        "configuration": pl.String,
        "finetune_energy_j": pl.Float64,
        "inference_energy_j_per_request": pl.Float64,
    }
    return pl.DataFrame([(name, *both) for name, both in values.items()], columns, orient="row")


def test_who_is_no_better_in_anything_is_dominated_by_one_that_is_named():
    found = pareto(rows(best=(0.9, 4.0), cheap=(0.6, 1.0), worse=(0.5, 2.0), dear=(0.9, 5.0), same_energy=(0.4, 1.0)))
    assert found.rows() == [
        ("best", True, None),
        ("cheap", True, None),
        ("worse", False, "cheap"),
        ("dear", False, "best"),
        ("same_energy", False, "cheap"),
    ]


def test_of_several_that_dominate_the_first_on_the_front_is_named():
    found = pareto(rows(middle=(0.6, 3.0), last=(0.5, 4.0), second=(0.7, 2.0), third=(0.8, 2.5)))
    assert dict(found.select("configuration", "dominated_by").rows()) == {
        "middle": "second",
        "last": "second",
        "second": None,
        "third": None,
    }


def test_equal_points_do_not_dominate_each_other_and_rounding_is_no_difference():
    found = pareto(rows(a=(0.1 + 0.2, 1.0), b=(0.3, 1.0), c=(0.3, 1.0 + 1e-12)))
    assert found["on_front"].to_list() == [True, True, True]


def test_a_front_of_nothing_and_of_one():
    assert pareto(rows()).is_empty()
    assert pareto(rows(a=(0.0, 1.0)))["on_front"].to_list() == [True]


few = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), max_size=9)


@given(few)
@settings(max_examples=300, deadline=None)
def test_the_front_agrees_with_plain_loops(points):
    found = pareto(rows(**{str(number): (rho / 4, float(joules)) for number, (rho, joules) in enumerate(points)}))

    def dominating(rho, joules):
        return [
            str(number)
            for number, (other, less) in enumerate(points)
            if other >= rho and less <= joules and (other, less) != (rho, joules)
        ]

    for (name, on_front, by), (rho, joules) in zip(found.rows(), points, strict=True):
        better = dominating(rho, joules)
        assert on_front == (not better), name
        on_the_front = [each for each in better if not dominating(*points[int(each)])]
        assert by == (on_the_front[0] if on_the_front else None), name


def test_a_fine_tuning_has_paid_for_itself_at_its_joules_over_those_saved():
    # 1000 J more at once, 0.5 J less per request: 2000 requests
    found = break_even(costs(tuned=(1000.0, 0.5), base=(0.0, 1.0)))
    assert found.rows() == [("tuned", "base", 2000.0, "base", "tuned")]
    assert break_even(costs(base=(0.0, 1.0), tuned=(1000.0, 0.5))).rows() == [
        ("base", "tuned", 2000.0, "base", "tuned")
    ]


@pytest.mark.parametrize(
    ("other", "cheaper"),
    [
        ((1000.0, 1.5), "a"),  # as dear at once, dearer later
        ((2000.0, 1.0), "a"),  # dearer at once, never made up for
        ((2000.0, 2.0), "a"),
        ((500.0, 0.5), "b"),
        ((1000.4, 0.5), "b"),  # made up for with the first request
        ((1000.0 * (1 + 1e-12), 1.0), None),  # equal but for rounding
    ],
)
def test_where_lines_do_not_cross_one_is_always_cheaper_or_both_are_level(other, cheaper):
    assert break_even(costs(a=(1000.0, 1.0), b=other)).rows() == [("a", "b", None, cheaper, cheaper)]


def test_every_pair_has_a_row_once():
    found = break_even(costs(a=(3.0, 1.0), b=(2.0, 2.0), c=(1.0, 3.0), d=(0.0, 4.0)))
    assert found.select("first", "second").rows() == [*zip("aaabbc", "bcdcdd", strict=True)]
    assert break_even(costs(a=(3.0, 1.0))).is_empty()
    assert break_even(costs()).is_empty()


joules = st.tuples(st.integers(0, 3000), st.integers(1, 6))


@given(joules, joules, st.integers(2, 5000))
@settings(max_examples=300, deadline=None)
def test_who_is_cheaper_agrees_with_the_sums_at_any_number_of_requests(one, two, requests):
    ((_, _, at, below, above),) = break_even(costs(a=one, b=two)).rows()
    sums = {"a": one[0] + requests * one[1], "b": two[0] + requests * two[1]}
    cheaper = None if sums["a"] == sums["b"] else min(sums, key=sums.__getitem__)
    if at is None:
        assert cheaper == above == below
    else:
        assert cheaper == (None if requests == at else below if requests < at else above)


def test_without_the_dearest_minmax_reverses_two_others_and_ratio_does_not():
    # With c: phi = 0.9, 1, 0 and R = 0.85, 0.75, 0; without: phi = 0, 1 and R = 0.4, 0.75.
    # Ratio: phi = 1/2 and 1, R = 0.65 and 0.75 either way
    three = rows(a=(0.8, 2.0), b=(0.5, 1.0), c=(0.0, 11.0))
    assert leave_one_out(three, 0.5, "minmax").rows() == [
        ("a", "b", "b", False),
        ("b", "a", "a", False),
        ("c", "a", "b", True),
    ]
    assert leave_one_out(three, 0.5, "ratio").rows() == [
        ("a", "b", "b", False),
        ("b", "a", "a", False),
        ("c", "b", "b", False),
    ]


def test_without_the_most_efficient_ratio_too_can_reverse_two_others():
    # With c: phi = 0.1, 0.05 and R = 0.3, 0.425; without: phi = 1, 0.5 and R = 0.75, 0.65
    three = rows(a=(0.5, 10.0), b=(0.8, 20.0), c=(0.0, 1.0))
    assert leave_one_out(three, 0.5, "ratio").rows()[2] == ("c", "b", "a", True)


def test_a_tie_that_comes_or_goes_is_a_change():
    # With c: phi = 1, 0.5, R = 0.65, 0.65; without: phi = 1, 0, R = 0.65, 0.4
    three = rows(a=(0.3, 1.0), b=(0.8, 2.0), c=(0.0, 3.0))
    assert leave_one_out(three, 0.5, "minmax").rows()[2] == ("c", "a", "a", True)


def test_one_alone_leaves_nobody():
    assert leave_one_out(rows(a=(0.5, 1.0)), 0.5, "minmax").rows() == [("a", None, None, False)]
    assert leave_one_out(rows(), 0.5, "ratio").is_empty()


@given(few, st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from(["minmax", "ratio"]))
@settings(max_examples=300, deadline=None)
def test_leaving_one_out_agrees_with_plain_loops(points, weight, phi):
    named = {str(number): (rho / 4, float(joules)) for number, (rho, joules) in enumerate(points)}

    def scores(of):
        least, most = min(e for _, e in of.values()), max(e for _, e in of.values())
        span = most - least
        efficiency = (lambda e: least / e) if phi == "ratio" else (lambda e: (most - e) / span if span else 1.0)
        return {name: round(weight * efficiency(e) + (1 - weight) * rho, 9) for name, (rho, e) in of.items()}

    for left_out, before, after, changed in leave_one_out(rows(**named), weight, phi).rows():
        others = {name: point for name, point in named.items() if name != left_out}
        if not others:
            assert (before, after, changed) == (None, None, False)
            continue
        whole = scores(named)
        held, alone = {name: whole[name] for name in others}, scores(others)
        pairs = [(one, two) for one in others for two in others]
        reversed_ = any(
            (held[a] > held[b], held[a] == held[b]) != (alone[a] > alone[b], alone[a] == alone[b]) for a, b in pairs
        )
        assert changed == reversed_
        assert (before, after) == (max(held, key=held.__getitem__), max(alone, key=alone.__getitem__))

"""Scores are straight lines in w: worked by hand, and against an independent computation with fractions."""

from fractions import Fraction
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import ranking
from analysis.weights import over_weights
from tests.analysis.builders import Lab


def lines(**ends: tuple[float, float]) -> pl.DataFrame:
    """Configurations by their rho and phi."""
    columns = {"configuration": pl.String, "rho": pl.Float64, "phi": pl.Float64}
    return pl.DataFrame([(name, *both) for name, both in ends.items()], columns, orient="row")


def test_three_lines_by_hand():
    # a: 0.9 -> 0, b: 0.7 -> 0.6, c: 0.2 -> 1. a meets b at 0.2 / 0.8, a meets c at 0.7 / 1.7, b meets c at 0.5 / 0.9
    weights = over_weights(lines(a=(0.9, 0.0), b=(0.7, 0.6), c=(0.2, 1.0)))
    assert weights.lines.rows() == [("a", 0.9, 0.0), ("b", 0.7, 0.6), ("c", 0.2, 1.0)]
    assert weights.winners.rows() == [
        (0.0, 0.25, "a"),
        (0.25, pytest.approx(5 / 9), "b"),
        (pytest.approx(5 / 9), 1.0, "c"),
    ]
    assert weights.crossings.rows() == [
        (0.25, "a", "b", 1),
        (pytest.approx(7 / 17), "a", "c", 2),
        (pytest.approx(5 / 9), "b", "c", 1),
    ]


def test_who_is_dominated_never_wins_and_crosses_only_those_that_it_overtakes():
    weights = over_weights(lines(good=(0.9, 0.8), bad=(0.5, 0.7), other=(0.6, 0.1)))
    assert weights.winners.rows() == [(0.0, 1.0, "good")]
    assert weights.crossings.rows() == [(pytest.approx(0.1 / 0.7), "other", "bad", 2)]


def test_equal_lines_win_together_and_never_cross():
    weights = over_weights(lines(a=(0.8, 0.2), twin=(0.8, 0.2), c=(0.4, 0.6)))
    assert weights.winners.rows() == [(0.0, 0.5, "a"), (0.0, 0.5, "twin"), (0.5, 1.0, "c")]
    assert weights.crossings.rows() == [(0.5, "a", "c", 1), (0.5, "twin", "c", 1)]


def test_lines_that_meet_in_one_point_change_there_in_pairs_for_the_place_they_share():
    # All are 0.5 at w = 0.5; `high` stays above them
    weights = over_weights(lines(high=(0.9, 0.9), a=(0.7, 0.3), b=(0.6, 0.4), c=(0.3, 0.7)))
    assert weights.crossings.rows() == [(0.5, "a", "b", 2), (0.5, "a", "c", 2), (0.5, "b", "c", 2)]
    assert weights.winners.rows() == [(0.0, 1.0, "high")]


def test_a_tie_at_one_end_only_is_no_change_of_order():
    # b is level with a at 0 and with c at 1, and ahead of both between them
    weights = over_weights(lines(a=(0.8, 0.2), b=(0.8, 0.6), c=(0.1, 0.6)))
    assert weights.crossings.rows() == [(pytest.approx(7 / 11), "a", "c", 2)]
    assert weights.winners.rows() == [(0.0, 1.0, "b")]


def test_a_difference_of_rounding_is_none():
    weights = over_weights(lines(a=(0.1 + 0.2, 0.5), b=(0.3, 0.5)))
    assert weights.crossings.is_empty()
    assert weights.winners["configuration"].to_list() == ["a", "b"]


def test_only_changes_among_the_first_places_when_asked():
    rows = lines(a=(0.9, 0.0), b=(0.7, 0.6), c=(0.2, 1.0))
    assert over_weights(rows, places=1).crossings.select("first", "second").rows() == [("a", "b"), ("b", "c")]


@pytest.mark.parametrize("ends", [{}, {"a": (0.5, 1.0)}])
def test_nothing_and_one_alone(ends):
    weights = over_weights(lines(**ends))
    assert weights.winners["configuration"].to_list() == list(ends)
    assert weights.crossings.is_empty()


@pytest.mark.parametrize("phi", ["minmax", "ratio"])
def test_it_agrees_with_the_ranking_at_any_weight(tmp_path, phi):
    lab = Lab(tmp_path)
    for number, (energy, accuracy) in enumerate([(1.0, 0.3), (2.0, 0.7), (3.0, 0.75), (9.0, 0.95), (4.0, 0.6)]):
        lab.inference(f"s{number}", precision=f"p{number}", needs=None, energy=energy, quality={"t": {"x": accuracy}})
    results = lab.results()
    winners = over_weights(ranking(results, phi=phi).collect()).winners
    assert winners.height > 2
    for start, end, best in winners.iter_rows():
        middle = ranking(results, weight=(start + end) / 2, phi=phi).collect()
        assert middle["configuration"][0] == best


@pytest.mark.parametrize("parts", [10, 7])
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=7))
@settings(max_examples=300, deadline=None)
def test_order_between_and_at_crossings_agrees_with_fractions(parts, counts):
    exact = ends = [(Fraction(min(rho, parts), parts), Fraction(min(phi, parts), parts)) for rho, phi in counts]
    weights = over_weights(lines(**{str(at): (float(rho), float(phi)) for at, (rho, phi) in enumerate(ends)}))

    def scores(w: Fraction) -> list[Fraction]:
        return [w * phi + (1 - w) * rho for rho, phi in exact]

    expected = set()
    for one, (rho, phi) in enumerate(exact):
        for two, (other_rho, other_phi) in enumerate(exact):
            if rho > other_rho and phi < other_phi:
                at = (rho - other_rho) / ((rho - other_rho) + (other_phi - phi))
                above = sum(score > scores(at)[one] for score in scores(at))
                expected.add((round(float(at), 9), str(one), str(two), 1 + above))
    found = [(round(at, 9), *rest) for at, *rest in weights.crossings.rows()]
    assert len(found) == len(set(found))
    assert set(found) == expected

    borders = sorted({0.0, 1.0} | {at for at, *_ in expected})
    for start, end in pairwise(borders):
        here = scores(Fraction((start + end) / 2))
        best = {str(index) for index, score in enumerate(here) if score == max(here)}
        said = weights.winners.filter(
            pl.col("from_weight") < (start + end) / 2, pl.col("to_weight") > (start + end) / 2
        )
        assert set(said["configuration"]) == (best if ends else set())

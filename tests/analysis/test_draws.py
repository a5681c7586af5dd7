"""Random draws: distributions that are known, and how often intervals of them hold what is true."""

import numpy as np
import pytest
from scipy import stats

from analysis.draws import Bootstrap, Floats
from analysis.intervals import best_shares, interval, ranks

DRAWS = 200_000


def means(values: Floats, seed: int = 0) -> Floats:
    """Drawn means of these values."""
    bootstrap = Bootstrap(DRAWS, seed)
    return values @ bootstrap.weights(len(values), bootstrap.generator("values"))


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_weights_of_a_draw_add_up_to_one_and_are_alike(count):
    bootstrap = Bootstrap(DRAWS, 0)
    weights = bootstrap.weights(count, bootstrap.generator("any"))
    assert weights.shape == (count, DRAWS)
    assert weights.sum(axis=0) == pytest.approx(1.0)
    heavier = (weights > 1 / count).mean(axis=1)
    assert heavier == pytest.approx(np.full(count, heavier.mean()), abs=0.01)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_draws_from_two_reach_as_far_as_one_over_a_normal_number(level):
    # mean -+ half the distance / |z|, and 1 / |z| > q where |z| < 1 / q: a share 1 - level of all z
    reach = 1 / stats.norm.ppf(1 - level / 2)
    ends = np.quantile(means(np.array([4.0, 6.0])), [(1 - level) / 2, (1 + level) / 2])
    assert ends == pytest.approx([5 - reach, 5 + reach], rel=0.05)


@pytest.mark.parametrize("count", [3, 5, 10, 30])
def test_draws_from_more_reach_as_far_as_students_t(count):
    values = np.random.default_rng(count).normal(0.0, 1.0, count)
    expected = stats.t.interval(0.95, count - 1, 0.0, stats.sem(values))
    assert np.quantile(means(values) - values.mean(), [0.025, 0.975]) == pytest.approx(expected, rel=0.05)


def test_the_draws_vary_as_students_t_does():
    # s^2 / n, s^2 with n - 1 in the denominator, times nu / (nu - 2), the variance of t
    values = np.array([1.0, 2.0, 4.0, 8.0, 9.0, 3.0, 7.0, 5.0, 6.0, 2.5, 3.5, 8.5])
    drawn = means(values)
    assert drawn.mean() == pytest.approx(values.mean(), rel=0.01)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / 12 * 11 / 9, rel=0.02)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_intervals_of_a_handful_hold_the_true_mean_as_often_as_they_claim(count):
    measured = np.random.default_rng(count).normal(100.0, 1.0, (2000, count))
    bootstrap = Bootstrap(2000, 0)
    drawn = np.array([one @ bootstrap.weights(count, bootstrap.generator(case)) for case, one in enumerate(measured)])
    low, high = interval(drawn, measured.mean(axis=1), 0.95)
    assert 0.93 <= ((low <= 100.0) & (high >= 100.0)).mean() <= 0.985


def test_the_same_seeds_weigh_the_same_for_all_and_others_do_not():
    bootstrap, again = Bootstrap(1000, 0), Bootstrap(1000, 0)
    again.weights_of_seeds((3, 4))
    assert (bootstrap.weights_of_seeds((0, 1, None)) == again.weights_of_seeds((0, 1, None))).all()
    assert (bootstrap.weights_of_seeds((0, 1, 2)) != bootstrap.weights_of_seeds((0, 1, 3))).any()


def test_equal_configurations_are_rarely_told_apart():
    """Of 400 pairs of equal true quality, about 5 % are not tied at a level of 95 %."""
    chance, bootstrap = np.random.default_rng(7), Bootstrap(1000, 0)
    told_apart = 0
    for pair in range(400):
        graded = np.sort(chance.binomial(100, 0.8, 2) / 100)
        other, best = (
            bootstrap.of_test_set(np.full(1000, mean), 100, pair, which) for which, mean in enumerate(graded)
        )
        told_apart += bool((other >= best).mean() < 0.025)
    assert 0.02 <= told_apart / 400 <= 0.09


def test_ranks_of_a_draw_are_shared_by_equal_scores_and_rounding_is_no_difference():
    scores = np.array([[0.5, 0.1 + 0.2], [0.5, 0.3], [0.9, 0.3], [0.1, 0.7]])
    assert ranks(scores).tolist() == [[2, 2], [2, 2], [1, 2], [4, 1]]
    assert best_shares(ranks(np.array([[1.0, 1.0], [1.0, 0.0]]))).tolist() == [0.75, 0.25]

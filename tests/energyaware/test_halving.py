"""Which fine-tunings are not worth going on with."""

import math

from hypothesis import given
from hypothesis import strategies as st

from energyaware.halving import Rungs, Verdict


def judged(rungs, *reached, epoch=1):
    return [rungs.judge("model", str(number), epoch, loss, energy_j) for number, (loss, energy_j) in enumerate(reached)]


def test_the_first_ones_go_on_and_later_ones_only_among_the_best_half():
    """Equal joules: phi is 1 for all, and the order is that of the losses."""
    assert judged(Rungs(2, 1, 0.5), (1.0, 10.0), (2.0, 10.0), (0.5, 10.0), (1.5, 10.0)) == [
        None,
        Verdict(1, 2, 2),
        None,  # the best of three, of which two go on
        Verdict(1, 3, 4),
    ]


def test_joules_count_as_much_as_they_are_said_to():
    reached = (1.0, 10.0), (0.9, 20.0)  # the second is a little better and takes twice as much
    assert judged(Rungs(2, 1, 0.5), *reached) == [None, Verdict(1, 2, 2)]
    assert judged(Rungs(2, 1, 0.0), *reached) == [None, None]
    # w = 0.1: 0.1 * 1 + 0.9 * exp(-1) = 0.431 against 0.1 * 0.5 + 0.9 * exp(-0.9) = 0.416
    assert judged(Rungs(2, 1, 0.1), *reached) == [None, Verdict(1, 2, 2)]
    # w = 0.01: 0.01 + 0.99 * exp(-1) = 0.374 against 0.005 + 0.99 * exp(-0.9) = 0.408
    assert judged(Rungs(2, 1, 0.01), *reached) == [None, None]


def test_only_rungs_are_judged():
    rungs = Rungs(3, 2, 0.5)
    assert [epoch for epoch in range(1, 60) if rungs.is_rung(epoch)] == [2, 6, 18, 54]
    assert judged(rungs, (1.0, 1.0), (9.0, 1.0), (9.0, 1.0), (9.5, 1.0), epoch=3) == [None] * 4


def test_what_is_not_known_is_not_judged_and_nobody_is_held_against_it():
    rungs = Rungs(2, 1, 0.5)
    assert judged(rungs, (1.0, None), (math.nan, 5.0), (1.0, 0.0)) == [None] * 3
    assert rungs.judge("model", "late", 1, 9.0, 5.0) is None, "it is the first"


def test_other_models_are_nobodys_measure():
    rungs = Rungs(2, 1, 0.5)
    assert rungs.judge("small", "a", 1, 0.1, 1.0) is None
    assert rungs.judge("large", "b", 1, 2.0, 50.0) is None


def test_one_that_comes_again_after_an_interruption_counts_once():
    rungs = Rungs(2, 1, 0.5)
    judged(rungs, (1.0, 10.0))
    assert judged(rungs, (1.0, 10.0)) == [None]
    assert rungs.judge("model", "other", 1, 2.0, 10.0) == Verdict(1, 2, 2)


@given(
    st.lists(st.tuples(st.floats(0.01, 5), st.floats(1, 1e4)), min_size=1, max_size=30),
    st.integers(2, 4),
    st.floats(0, 1),
)
def test_the_best_is_never_stopped_and_no_more_than_its_share_goes_on(reached, eta, weight):
    rungs = Rungs(eta, 1, weight)
    for number, (loss, energy_j) in enumerate(reached, 1):
        verdict = rungs.judge("model", str(number), 1, loss, energy_j)
        least_j = min(energy for _, energy in reached[:number])
        scores = [weight * least_j / e + (1 - weight) * math.exp(-nats) for nats, e in reached[:number]]
        better = sum(score > scores[-1] for score in scores)
        assert (verdict is not None) == (number >= eta and better + 1 > math.ceil(number / eta))
        if verdict:
            assert str(verdict) == f"after epoch 1 its score is number {better + 1} of {number}"


def test_the_place_is_told_to_people():
    assert str(Verdict(2, 3, 4)) == "after epoch 2 its score is number 3 of 4"


def test_weights_of_zero_and_one_are_quality_and_energy_alone():
    assert judged(Rungs(2, 1, 1.0), (9.0, 1.0), (0.1, 2.0)) == [None, Verdict(1, 2, 2)]
    assert judged(Rungs(2, 1, 1.0), (0.1, 2.0), (9.0, 1.0)) == [None, None]
    assert judged(Rungs(2, 1, 0.0), (0.1, 2.0), (9.0, 1.0)) == [None, Verdict(1, 2, 2)]

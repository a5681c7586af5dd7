"""How joules reach accounts: counters that move in steps, and channels that several share."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyaware.energy.accounts import Account, ExclusiveTrack, Part, Segment, SharedTrack
from energyaware.energy.base import Reading

STEP_S = 0.1
POLL_S = 0.01
WATTS = 300.0


class Counter:
    """A counter at constant power that shows its value of the last step only."""

    def __init__(self, watts: float = WATTS, step_s: float = STEP_S, phase_s: float = 0.0) -> None:
        self.watts, self.step_s, self.phase_s = watts, step_s, phase_s

    def at(self, now_s: float) -> Reading:
        if not self.step_s:
            return Reading(self.watts * now_s)
        steps = math.floor((now_s - self.phase_s) / self.step_s + 1e-9)
        return Reading(self.watts * (steps * self.step_s + self.phase_s))


def settle(track: ExclusiveTrack, counter: Counter, now_s: float) -> float:
    """As a node's meter polls: until nobody waits any more."""
    while track.pending:
        now_s += POLL_S
        track.read(counter.at(now_s), now_s)
    return now_s


@settings(max_examples=200, deadline=None)
@given(opened_s=st.floats(1, 2), length_s=st.floats(0.35, 20), phase_s=st.floats(0, STEP_S), watts=st.floats(5, 700))
def test_a_window_over_a_stepped_counter_is_exact_to_the_polling_and_not_to_the_step(
    opened_s, length_s, phase_s, watts
):
    counter, idle, window = Counter(watts, phase_s=phase_s), Account(), Account()
    track = ExclusiveTrack(STEP_S, counter.at(0.5), 0.5, idle)
    track.give_to(window, counter.at(opened_s), opened_s)
    settle(track, counter, opened_s)
    closed_s = opened_s + length_s
    track.give_to(idle, counter.at(closed_s), closed_s)
    end_s = settle(track, counter, closed_s)

    assert window.energy_j == pytest.approx(watts * length_s, abs=watts * POLL_S * 1.01)
    assert window.energy_j + idle.energy_j == pytest.approx(track.total.energy_j)
    assert track.total.energy_j == pytest.approx(counter.at(end_s).energy_j - counter.at(0.5).energy_j)


def test_a_counter_that_moves_all_the_time_settles_at_once():
    counter, idle, window = Counter(step_s=0), Account(), Account()
    track = ExclusiveTrack(0.0, counter.at(0), 0.0, idle)
    track.give_to(window, counter.at(2), 2.0)
    assert not track.pending
    track.give_to(idle, counter.at(5), 5.0)

    assert (idle.energy_j, window.energy_j) == pytest.approx((2 * WATTS, 3 * WATTS))


def test_several_changes_within_one_step_share_it_by_time():
    counter, idle, first, second = Counter(), Account(), Account(), Account()
    track = ExclusiveTrack(STEP_S, counter.at(1.0), 1.0, idle)
    track.give_to(first, counter.at(1.02), 1.02)
    track.give_to(second, counter.at(1.06), 1.06)
    settle(track, counter, 1.06)

    assert idle.energy_j == pytest.approx(0.02 * WATTS, abs=WATTS * POLL_S)
    assert first.energy_j == pytest.approx(0.04 * WATTS, abs=WATTS * POLL_S)
    assert idle.energy_j + first.energy_j + second.energy_j == pytest.approx(track.total.energy_j)


def test_a_counter_that_stands_still_is_waited_for_and_then_taken_as_it_is():
    still, idle, window = Reading(50.0), Account(), Account()
    track = ExclusiveTrack(STEP_S, still, 0.0, idle)
    track.give_to(window, still, 1.0)
    track.read(still, 1.2)
    assert track.pending
    track.read(still, 1.4)

    assert not track.pending
    assert window == Account()


def reset(now_s):
    return Reading(1.0)


def lost(now_s):
    return Reading(None, "GPU is lost")


def no_number(now_s):
    return Reading(math.nan)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(reset, "the counter went backwards (reset)"), (lost, "GPU is lost"), (no_number, "not a number")],
)
@pytest.mark.parametrize("pending", [True, False])
def test_a_bad_reading_is_unknown_to_all_who_own_it_then_and_to_nobody_after(broken, reason, pending):
    counter, before, window, after = Counter(), Account(), Account(), Account()
    track = ExclusiveTrack(STEP_S, counter.at(1), 1.0, before)
    track.give_to(window, counter.at(2.05), 2.05)
    if not pending:
        settle(track, counter, 2.05)
    track.read(broken(2.06), 2.3)
    track.read(counter.at(3), 3.0)
    track.give_to(after, counter.at(4), 4.0)
    settle(track, counter, 4.0)
    track.give_to(before, counter.at(9), 9.0)
    settle(track, counter, 9.0)

    assert reason in window.reason
    assert (before.reason is not None) is pending, "whose share of the step was not settled"
    assert after.reason is None
    assert after.energy_j == pytest.approx(5 * WATTS, abs=WATTS * POLL_S * 1.01)
    assert track.total.energy_j is None
    assert reason in track.total.reason


def test_a_window_that_begins_while_the_counter_cannot_be_read_is_unknown():
    counter, idle, window = Counter(), Account(), Account()
    track = ExclusiveTrack(STEP_S, counter.at(1), 1.0, idle)
    track.give_to(window, Reading(None, "GPU is lost"), 2.0)
    track.read(counter.at(3), 3.0)
    track.read(counter.at(4), 4.0)

    assert window.reason == "GPU is lost"
    assert idle.reason == "GPU is lost"


# -- shared channels ---------------------------------------------------------------------------------------------------


def test_idle_power_and_what_comes_on_top_are_split_by_their_own_shares():
    a, b, idle, rest = (Account() for _ in range(4))
    track = SharedTrack(Reading(0.0), 0.0, idle_w=40.0)
    track.add(Segment(0, 10, [Part(a, 0.25, 0.6), Part(b, 0.25, 0.1), Part(idle, 0.5, 0), Part(rest, 0, 0.3)]))
    track.read(Reading(1000.0), 10.0)  # 100 W, of which 40 are idle

    assert (a.energy_j, a.idle_j) == pytest.approx((100 + 360, 100))
    assert (b.energy_j, b.idle_j) == pytest.approx((100 + 60, 100))
    assert idle.energy_j == pytest.approx(200)
    assert rest.energy_j == pytest.approx(180)


def test_a_machine_below_its_idle_power_gives_nothing_on_top_and_nothing_negative():
    a, rest = Account(), Account()
    track = SharedTrack(Reading(0.0), 0.0, idle_w=40.0)
    track.add(Segment(0, 10, [Part(a, 1.0, 0.0), Part(rest, 0.0, 1.0)]))
    track.read(Reading(300.0), 10.0)

    assert (a.energy_j, a.idle_j, rest.energy_j) == pytest.approx((300, 300, 0))


def test_segments_wait_for_a_reading_and_share_it_by_time():
    a, b = Account(), Account()
    track = SharedTrack(Reading(5.0), 0.0, idle_w=None)
    track.add(Segment(0, 1, [Part(a, 0, 1.0)]))
    track.add(Segment(1, 4, [Part(b, 0, 1.0)]))
    assert (a.energy_j, track.pending) == (0, True)
    track.read(Reading(25.0), 2.0)  # 10 W: b's segment is read half-way
    assert (a.energy_j, b.energy_j) == pytest.approx((10, 10))
    track.read(Reading(85.0), 4.0)

    assert (a.energy_j, b.energy_j) == pytest.approx((10, 70))
    assert not track.pending


@settings(max_examples=200, deadline=None)
@given(
    ends=st.lists(st.floats(0.001, 1), min_size=2, max_size=5),
    reads=st.lists(st.floats(0, 100), min_size=2, max_size=5),
)
def test_a_counter_that_stands_still_is_not_taken_for_one_that_was_reset_however_its_joules_are_rounded(ends, reads):
    """What a model of a resting processor gives. Joules are split over segments, and their sum is rounded."""
    a = Account()
    track = SharedTrack(Reading(0.1), 0.0, idle_w=7.3)
    now_s, total_j = 0.0, 0.1
    for rise_j in reads:
        for length_s in ends:
            track.add(Segment(now_s, now_s + length_s, [Part(a, 1.0, 1.0)]))
            now_s += length_s
        total_j += rise_j
        for late_s in (0.0, 0.0005):  # the second reading is of a counter that did not move
            track.add(Segment(now_s, now_s + late_s, [Part(a, 1.0, 1.0)]))
            now_s += late_s
            track.read(Reading(total_j), now_s)

    assert a.reason is None
    assert a.energy_j == pytest.approx(total_j - 0.1)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_what_is_given_away_adds_up_to_the_counter(data):
    accounts = [Account() for _ in range(3)]
    track = SharedTrack(Reading(0.0), 0.0, data.draw(st.one_of(st.none(), st.floats(0, 50))))
    now_s, total_j, read_s = 0.0, 0.0, 0.0
    for _ in range(data.draw(st.integers(1, 20))):
        end_s = now_s + data.draw(st.floats(0.001, 5))
        cut = sorted(data.draw(st.lists(st.floats(0, 1), min_size=2, max_size=2)))
        shares = [cut[0], cut[1] - cut[0], 1 - cut[1]]
        track.add(Segment(now_s, end_s, [Part(a, s, s) for a, s in zip(accounts, shares, strict=True)]))
        now_s = end_s
        if data.draw(st.booleans()):
            total_j += data.draw(st.floats(0, 500))
            track.read(Reading(total_j), now_s)
            read_s = now_s
    total_j += 10.0
    track.read(Reading(total_j), now_s + 0.5)
    assert read_s <= now_s

    given_j = sum(account.energy_j for account in accounts)
    after_the_last_j = 0.5 * (10.0 / (now_s + 0.5 - read_s))
    assert given_j == pytest.approx(total_j - after_the_last_j, rel=1e-9, abs=1e-6)
    assert all(account.energy_j >= account.idle_j >= 0 for account in accounts)


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        (Reading(None, "permission denied"), "permission denied"),
        (Reading(math.inf), "not a number"),
        (Reading(-1.0), "went backwards"),
    ],
)
def test_a_bad_reading_of_a_shared_channel_is_unknown_to_all_who_share_it(reading, reason):
    a, b, later = Account(), Account(), Account()
    track = SharedTrack(Reading(0.0), 0.0, None)
    track.add(Segment(0, 1, [Part(a, 0.5, 0.5), Part(b, 0.5, 0.5)]))
    track.read(reading, 1.0)
    track.add(Segment(1, 2, [Part(b, 1.0, 1.0)]))
    track.read(Reading(100.0), 2.0)
    track.add(Segment(2, 3, [Part(later, 1.0, 1.0)]))
    track.read(Reading(110.0), 3.0)

    assert reason in a.reason
    assert reason in b.reason
    assert later == Account(10.0)


def test_a_clock_that_goes_backwards_is_unknown_and_takes_no_joule():
    a = Account()
    track = SharedTrack(Reading(0.0), 10.0, None)
    track.add(Segment(10, 5, [Part(a, 1.0, 1.0)]))
    track.read(Reading(100.0), 5.0)

    assert a.reason == "the clock went backwards"
    assert a.energy_j == 0

"""Measured windows: long enough, the same number of passes on every rank, in an order that the seed shuffles."""

import time
from contextlib import contextmanager

from energyaware.energy.base import Work
from energyaware.measuring import measure

PASS_S = 0.01


class Recorder:
    """A meter that notes windows, their lengths and what they say of their work."""

    def __init__(self):
        self.windows = []

    @contextmanager
    def window(self, name, epoch=None, repeat=None):
        work, began_s = Work(), time.monotonic()
        yield work
        self.windows.append((name, repeat, work.requests, time.monotonic() - began_s))


def measured(*, min_window_s=0.1, repeats=3, seed=0, slow_start_s=0.0):
    calls = {"prefill": 0, "decode": 0}
    meter = Recorder()

    def phase(name):
        def work():
            calls[name] += 1
            time.sleep(PASS_S + (slow_start_s if calls[name] <= 2 else 0))

        return work

    passes = measure(
        {name: phase(name) for name in calls}, 8, meter, min_window_s=min_window_s, repeats=repeats, seed=seed
    )
    return passes, calls, meter.windows


def test_each_phase_is_measured_as_often_as_asked_and_says_how_many_requests_it_handled():
    passes, calls, windows = measured()

    assert sorted((name, repeat) for name, repeat, *_ in windows) == [
        (name, repeat) for name in ("decode", "prefill") for repeat in (1, 2, 3)
    ]
    for name in calls:
        assert sum(requests for window, _, requests, _ in windows if window == name) == 8 * passes[name]
        assert calls[name] == passes[name] + 2, "two passes warm up, outside of all windows"


def test_windows_go_on_until_they_are_long_enough_even_if_the_warm_up_was_slower_than_the_work():
    _, _, windows = measured(slow_start_s=0.2)
    assert min(length_s for *_, length_s in windows) >= 0.1


def test_the_order_is_shuffled_by_the_seed_and_the_same_for_one_seed():
    orders = {seed: [window[:2] for window in measured(min_window_s=0.01, seed=seed)[2]] for seed in range(4)}
    assert len({tuple(order) for order in orders.values()}) > 1
    assert [window[:2] for window in measured(min_window_s=0.01, seed=2)[2]] == orders[2]

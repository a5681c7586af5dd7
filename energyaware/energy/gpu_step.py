"""How often energy counters move, found by watching them."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Final

WATCHED_S: Final = 0.5
"""Long enough for some movements of a counter of the usual 100 ms."""

POLL_S: Final = 0.005

ASSUMED_STEP_S: Final = 0.1
"""Of a counter that stood still, as those of suspended GPUs may: the usual step."""


def find_steps_s(read: Callable[[], Sequence[float | None]]) -> list[float]:
    """Seconds between two movements of each counter that `read` reads, all watched together for half a second.

    The median over what was seen, as exact as the polling: 5 ms. It is 0 for a counter that moved at nearly every
    poll, and the usual 0.1 for one that moved less than twice.

    Args:
        read: values of the counters, always in the same order; None for one that cannot be read.
    """
    last = read()
    moved_s: list[list[float]] = [[] for _ in last]
    end_s = time.monotonic() + WATCHED_S
    while last and (at_s := time.monotonic()) < end_s:
        values = read()
        for times, before, after in zip(moved_s, last, values, strict=True):
            if None not in {before, after} and before != after:
                times.append(at_s)
        last = values
        time.sleep(POLL_S)
    return [_step_s(times) for times in moved_s]


def _step_s(moved_s: Sequence[float]) -> float:
    distances_s = [after - before for before, after in pairwise(moved_s)]
    if not distances_s:
        return ASSUMED_STEP_S
    step_s = median(distances_s)
    return step_s if step_s > 2 * POLL_S else 0.0

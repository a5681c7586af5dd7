"""Checkpoints of a fine-tuning: when one is due, and how an attempt keeps its work.

What makes one count, and which are kept, is in `energyaware.checkpoint_store`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from energyaware.errors import Interrupted

if TYPE_CHECKING:
    from energyaware.halving import Verdict

COST: Final = 0.02
"""Share of the time that checkpoints may take where nobody says how often they are wanted."""

SOONEST_S: Final = 10.0
"""Between two of them, however little they cost."""

LATEST_S: Final = 600.0
"""Between two of them, however much they cost."""


@dataclass(frozen=True)
class CheckpointRule:
    """When a fine-tuning leaves a checkpoint, and how many are kept.

    Attributes:
        every_steps: optimizer steps between two; None: not by steps.
        every_s: seconds between two; None: not by time. Without either, as often as costs about 2 % of the time.
        keep: how many are kept.
        max_bytes: older ones are kept only as far as they fit into this; None: whatever their size.
    """

    every_steps: int | None = None
    every_s: float | None = None
    keep: int = 2
    max_bytes: int | None = None

    def due_at(self, step: int) -> bool:
        """Whether the number of steps taken asks for a checkpoint, which all ranks know without asking each other."""
        return self.every_steps is not None and step % self.every_steps == 0

    def interval_s(self, cost_s: float) -> float | None:
        """Seconds between two checkpoints that cost so many seconds each; None where time does not matter."""
        if self.every_s is not None:
            return self.every_s
        return None if self.every_steps is not None else min(max(cost_s / COST, SOONEST_S), LATEST_S)


class Pace:
    """Tells by the clock of one process when the next checkpoint is due."""

    def __init__(self, rule: CheckpointRule, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._rule, self._clock_s = rule, clock_s
        self._since_s, self._cost_s = clock_s(), 0.0

    def due(self) -> bool:
        """Whether the time since the last one, or since the start, asks for a checkpoint."""
        interval_s = self._rule.interval_s(self._cost_s)
        return interval_s is not None and self._clock_s() - self._since_s >= interval_s

    def left(self, began_s: float) -> None:
        """Say that a checkpoint begun at that time of the clock is over, written or not."""
        self._since_s = self._clock_s()
        self._cost_s = self._since_s - began_s

    def now_s(self) -> float:
        """Time of the clock."""
        return self._clock_s()


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Keeping:
    """How one attempt keeps its work.

    Attributes:
        attempt: its number.
        rule: when it leaves checkpoints.
        stopping: asked between steps and windows, on any rank: whether the run is being stopped.
        judge: asked on the first rank after an epoch, with its number and validation loss: whether others are too far
            ahead. None: nobody is stopped for that.
    """

    attempt: int = 1
    rule: CheckpointRule = CheckpointRule()
    stopping: Callable[[], bool] = _never
    judge: Callable[[int, float], Verdict | None] | None = None

    def check(self) -> None:
        """Raises Interrupted if the run is being stopped."""
        if self.stopping():
            raise Interrupted("the run was stopped")


UNKEPT: Final = Keeping()
"""The first attempt of a stage that nobody stops."""

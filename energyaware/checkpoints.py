"""Checkpoints of a fine-tuning: when one is due, what makes it count, and which are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from energyaware.errors import Interrupted


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


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Keeping:
    """How one attempt keeps its work.

    Attributes:
        attempt: its number.
        rule: when it leaves checkpoints.
        stopping: asked between steps and windows, on any rank: whether the run is being stopped.
    """

    attempt: int = 1
    rule: CheckpointRule = CheckpointRule()
    stopping: Callable[[], bool] = _never

    def check(self) -> None:
        """Raises Interrupted if the run is being stopped."""
        if self.stopping():
            raise Interrupted("the run was stopped")

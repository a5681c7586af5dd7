"""Trials that were handed out and have no workers yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sweep.placement import Need, Place
from sweep.places import Places

LET_PASS_S: Final = 60.0
"""How long smaller stages may start while a larger one waits for room: then what is free is left to it."""


@dataclass(frozen=True)
class _Waiting:
    need: Need
    place: Place
    since_s: float


class Pending:
    """What waits for room, and where."""

    def __init__(self) -> None:
        self._trials: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._trials)

    @property
    def needs(self) -> list[Need]:
        """Of all of them."""
        return [trial.need for trial in self._trials.values()]

    def add(self, trial_id: str, need: Need, place: Place, now_s: float) -> None:
        """A trial was handed out."""
        self._trials[trial_id] = _Waiting(need, place, now_s)

    def remove(self, trial_id: str) -> bool:
        """A trial has workers, or has ended. Returns whether it had been waiting."""
        return self._trials.pop(trial_id, None) is not None

    def holds_up(self, need: Need, now_s: float, *, is_full: bool) -> bool:
        """Whether a trial with such a need has to wait.

        So it has while one like it does and the machines are full of such (until then what waits is being started), and
        while a larger one has waited for long.
        """
        return any(
            (is_full and trial.need == need)
            or (
                trial.need.workers > need.workers
                and trial.need.gpu_kind == need.gpu_kind
                and now_s - trial.since_s > LET_PASS_S
            )
            for trial in self._trials.values()
        )

    def out_of_place(self, places: Places, *, anyway: bool) -> list[str]:
        """Those that would be placed elsewhere now; `anyway`: all."""
        return [name for name, trial in self._trials.items() if anyway or places.place(trial.need) != trial.place]

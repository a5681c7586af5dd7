"""Stages that have not been handed out: which of them have their inputs, in the order of the plan."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from energyaware.spec import StageSpec
from sweep.placement import Need
from sweep.plan import PlannedStage
from sweep.tries import Tries

Entry = tuple[int, Tries]
"""Position in the plan, by which entries of a heap are told apart, and the stage."""


class Waiting:
    """Stages by what they ask for. To look at the next ones costs the same however many there are.

    Args:
        left: what is to run, in order of preference.
        need_of: what a stage asks of the machines.
    """

    def __init__(self, left: Iterable[Tries], need_of: Callable[[StageSpec], Need]) -> None:
        self._need_of = need_of
        self._position: dict[str, int] = {}
        self._ids, self._unfinished = set[str](), set[str]()
        self._after: dict[str, list[Tries]] = defaultdict(list)
        self._ready: dict[Need, list[Entry]] = defaultdict(list)
        self._later: list[tuple[float, int, Tries]] = []
        self.add(left)

    def add(self, left: Iterable[Tries]) -> None:
        """These are to run, too, after those that are there."""
        stages = list(left)
        ids = [tries.stage.stage_id for tries in stages]
        self._position |= {stage_id: position for position, stage_id in enumerate(ids, len(self._position))}
        self._ids.update(ids)
        self._unfinished.update(ids)
        for tries in stages:
            for need in self._missing(tries):
                self._after[need].append(tries)
            if not self._missing(tries):
                self._make_ready(tries)

    def __len__(self) -> int:
        return len(self._ids)

    def heads(self, now_s: float) -> list[tuple[Need, Tries]]:
        """The first ready stage of each need, in the order of the plan."""
        while self._later and self._later[0][0] <= now_s:
            self._make_ready(heapq.heappop(self._later)[2])
        first = sorted(((entries[0][0], need) for need, entries in self._ready.items() if entries), key=lambda e: e[0])
        return [(need, self._ready[need][0][1]) for _, need in first]

    def ready(self, need: Need) -> Iterator[Tries]:
        """All ready stages of a need, in the order of the plan."""
        entries = self._ready[need]
        yield entries[0][1]
        yield from (tries for _, tries in sorted(entries, key=lambda entry: entry[0])[1:])

    @property
    def for_later(self) -> bool:
        """Whether a stage waits for its time to be tried again."""
        return bool(self._later)

    def take(self, need: Need, tries: Tries) -> None:
        """A ready stage is handed out."""
        self._ids.discard(tries.stage.stage_id)
        entries = self._ready[need]
        if entries[0][1] is tries:
            heapq.heappop(entries)
        else:
            self._ready[need] = [entry for entry in entries if entry[1] is not tries]
            heapq.heapify(self._ready[need])

    def put_back(self, tries: Tries) -> None:
        """A stage is to be handed out again, not before its time."""
        self._ids.add(tries.stage.stage_id)
        heapq.heappush(self._later, (tries.not_before_s, self._position[tries.stage.stage_id], tries))

    def finished(self, stage_id: str) -> None:
        """What waited for this stage alone is ready."""
        self._unfinished.discard(stage_id)
        for tries in self._after.pop(stage_id, ()):
            if not self._missing(tries):
                self._make_ready(tries)

    def drop_after(self, stage_id: str) -> list[PlannedStage]:
        """Take out, and return, what needs a stage that will have no result."""
        dropped = [tries.stage for tries in self._after.pop(stage_id, ())]
        self._ids -= {stage.stage_id for stage in dropped}
        return dropped

    def _missing(self, tries: Tries) -> list[str]:
        return [need for need in tries.stage.spec.needs if need in self._unfinished]

    def _make_ready(self, tries: Tries) -> None:
        position = self._position[tries.stage.stage_id]
        heapq.heappush(self._ready[self._need_of(tries.stage.spec)], (position, tries))

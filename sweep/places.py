"""Where trials of a run can be placed now, while machines come and go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from cluster.node import Node
from energyaware.spec import StageSpec
from sweep.needs import Needs
from sweep.placement import Need, Place, place, why_nowhere

_NUMBERED: Final[list[Place]] = []
"""Tune copies a trial's configuration, pickles it and keeps it: so it holds a number, and no list of machines."""


def number_of(place: Place) -> int:
    """By which `numbered` finds it in this process."""
    if place not in _NUMBERED:
        _NUMBERED.append(place)
    return _NUMBERED.index(place)


def numbered(number: int) -> Place:
    """The place that has the number."""
    return _NUMBERED[number]


class Places:
    """The place that each need has on the machines of the moment. A shape, once chosen, is kept as long as it fits.

    Args:
        needs: of the stages.
        nodes: machines that are there now; the same object as long as nothing has changed.
    """

    def __init__(self, needs: Needs, nodes: Callable[[], Sequence[Node]]) -> None:
        self._needs, self._nodes = needs, nodes
        self._seen: Sequence[Node] = ()
        self._places: dict[Need, Place | None] = {}
        self._chosen: dict[Need, Place] = {}

    def need_of(self, spec: StageSpec) -> Need:
        """What a trial of that stage asks for."""
        return self._needs.of(spec)

    def place(self, need: Need) -> Place | None:
        """Where such trials go now; None while the machines for it are away."""
        if (nodes := self._nodes()) is not self._seen:
            self._seen, self._places = nodes, {}
        if need not in self._places:
            self._places[need] = self._place(need)
        return self._places[need]

    def at_once(self, need: Need) -> int:
        """How many such trials the machines of now hold, when nothing else is on them."""
        found = self.place(need)
        return 0 if found is None else found.at_once(self._seen)

    def why_nowhere(self, need: Need) -> str:
        """What is missing for such trials now."""
        return why_nowhere(need, self._nodes())

    def _place(self, need: Need) -> Place | None:
        before = self._chosen.get(need)
        as_before = replace(need, nodes=len(before.shape)) if before else need
        found = place(as_before, self._seen) or place(need, self._seen)
        if found is None:
            return None
        if before and (before.shape, before.cpus) == (found.shape, found.cpus):
            # Machines that are gone do no harm in the list, and another list would be another gang, started cold.
            found = replace(found, node_ids=tuple(dict.fromkeys((*before.node_ids, *found.node_ids))))
        self._chosen[need] = found
        return found

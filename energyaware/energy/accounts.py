"""Accounts of joules, and the two ways in which a channel's joules reach them.

A GPU belongs to one account at a time (`ExclusiveTrack`); CPU and DRAM are shared by several at once (`SharedTrack`).
Both give away exactly what lies between two readings, so that what was given away always adds up to the counter.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from energyaware.energy.base import Reading

PATIENCE_STEPS: Final = 3
"""Steps after which a counter that has not moved is taken to stand still."""

RESET: Final = "the counter went backwards (reset)"


@dataclass
class Account:
    """Joules of one channel in one window; unknown from the first failed reading on.

    Attributes:
        energy_j: joules given so far.
        idle_j: the part of them that the idle machine would have drawn too.
        reason: why they are unknown; the first one stays.
    """

    energy_j: float = 0.0
    idle_j: float = 0.0
    reason: str | None = None

    def add(self, energy_j: float, idle_j: float = 0.0) -> None:
        """Give joules."""
        self.energy_j += energy_j
        self.idle_j += idle_j

    def spoil(self, reason: str) -> None:
        """Make the account unknown."""
        self.reason = self.reason or reason


def fault(reading: Reading) -> str | None:
    """Why a reading cannot be used, or None."""
    if reading.energy_j is None:
        return reading.reason or "unreadable"
    return None if math.isfinite(reading.energy_j) else "the source returned a value that is not a number"


class Total:
    """From the first reading of a channel to its last, whatever was done with the joules in between."""

    def __init__(self, first: Reading, at_s: float) -> None:
        self.reason = fault(first)
        self._first_j = self._last_j = first.energy_j or 0.0
        self._first_s = self._last_s = at_s

    def read(self, reading: Reading, at_s: float) -> None:
        """Take note of a reading."""
        self._last_s = max(self._last_s, at_s)
        if reason := fault(reading):
            self.reason = self.reason or reason
            return
        value = reading.energy_j or 0.0
        if value < self._last_j:
            self.reason = self.reason or RESET
        self._last_j = value

    @property
    def energy_j(self) -> float | None:
        """Joules in all; None if any reading failed."""
        return None if self.reason else self._last_j - self._first_j

    @property
    def duration_s(self) -> float:
        """From the first reading to the last: what these joules were drawn in."""
        return self._last_s - self._first_s


@dataclass
class _Change:
    """Of owner, at a time; settled when the counter has moved on."""

    at_s: float
    owner: Account


class ExclusiveTrack:
    """A counter whose joules belong to one account at a time.

    GPU counters move in steps of about 100 ms, so that the reading at the end of a window is up to a step old. A change
    of owner is therefore settled at the counter's next movement: the joules of that step are split at the time of the
    change, as if power were constant within a step.

    Args:
        step_s: seconds between two movements of the counter; 0 where it moves all the time.
        first: its first reading.
        at_s: when that was.
        owner: whose joules they are from now on.
    """

    def __init__(self, step_s: float, first: Reading, at_s: float, owner: Account) -> None:
        self._step_s, self._owner = step_s, owner
        self.total = Total(first, at_s)
        self._changes: deque[_Change] = deque()
        self._seen_s = at_s
        self._seen_j = self._given_j = None if fault(first) else first.energy_j
        if reason := fault(first):
            owner.spoil(reason)

    @property
    def pending(self) -> bool:
        """Whether a change of owner waits for the counter to move."""
        return bool(self._changes)

    def give_to(self, owner: Account, reading: Reading, at_s: float) -> None:
        """Change the owner at `at_s`, which is when the reading was taken."""
        self.read(reading, at_s)
        if reason := fault(reading):
            owner.spoil(reason)
        self._changes.append(_Change(at_s, owner))
        if not self._step_s or self._seen_j is None:
            self._settle(lambda _: self._seen_j)

    def read(self, reading: Reading, at_s: float) -> None:
        """Give away the joules up to this reading, as far as it is known whose they are."""
        self.total.read(reading, at_s)
        if reason := fault(reading):
            self._lose(reason)
            return
        value = reading.energy_j
        assert value is not None  # noqa: S101
        before_s, before_j = self._seen_s, self._seen_j
        self._seen_s, self._seen_j = at_s, value
        if before_j is None or self._given_j is None:
            self._given_j = value  # whoever owned the gap knows that it does not know
        elif value < before_j:
            self._lose(RESET)
            self._seen_j = self._given_j = value
        elif at_s < before_s:
            self._lose("the clock went backwards")
            self._seen_j = self._given_j = value
        elif self._changes and value > before_j:
            start_s, end_s = self._moved(before_s, at_s)
            rise_j = value - before_j

            def at(time_s: float) -> float:
                return before_j + rise_j * min(1.0, max(0.0, (time_s - start_s) / (end_s - start_s)))

            self._settle(at)
        elif self._changes and at_s - self._changes[0].at_s > PATIENCE_STEPS * self._step_s:
            self._settle(lambda _: value)
        if not self._changes and self._given_j is not None:
            self._owner.add(value - self._given_j)
            self._given_j = value

    def _moved(self, before_s: float, after_s: float) -> tuple[float, float]:
        """From when to when the counter gathered what it just showed."""
        if after_s - before_s > self._step_s:  # it may have moved several times
            return before_s, after_s
        moved_s = (before_s + after_s) / 2
        return moved_s - self._step_s, moved_s

    def _settle(self, at: Callable[[float], float | None]) -> None:
        for change in self._changes:
            value = at(change.at_s)
            if value is not None and self._given_j is not None:
                self._owner.add(max(0.0, value - self._given_j))
                self._given_j = max(self._given_j, value)
            self._owner = change.owner
        self._changes.clear()

    def _lose(self, reason: str) -> None:
        """All who own it since it was last settled do not know their joules."""
        self._owner.spoil(reason)
        for change in self._changes:
            self._owner = change.owner
            self._owner.spoil(reason)
        self._changes.clear()
        self._seen_j = self._given_j = None


@dataclass(frozen=True)
class Part:
    """Of a shared channel, for one account: shares of what the idle machine draws, and of what comes on top."""

    account: Account
    idle: float
    busy: float


@dataclass(frozen=True)
class Segment:
    """A stretch of time in which the parts stay the same; they add up to 1, in idle and in busy."""

    start_s: float
    end_s: float
    parts: Sequence[Part]


class SharedTrack:
    """A channel whose joules are split among several accounts, segment by segment.

    A segment waits until a reading at its end or later is there. Power is taken as constant between two readings.

    Args:
        first: the channel's first reading.
        at_s: when that was.
        idle_w: what the idle machine draws; None where that is not known: then all joules are split as busy.
    """

    def __init__(self, first: Reading, at_s: float, idle_w: float | None) -> None:
        self._idle_w = idle_w or 0.0
        self.total = Total(first, at_s)
        self._waiting: deque[Segment] = deque()
        self._given_s = at_s
        self._reason = fault(first)
        self._given_j = self._seen_j = first.energy_j or 0.0

    @property
    def pending(self) -> bool:
        """Whether segments wait for a reading."""
        return bool(self._waiting)

    def add(self, segment: Segment) -> None:
        """Queue a segment that follows the last one."""
        if segment.end_s > segment.start_s:
            self._waiting.append(segment)
        elif segment.end_s < segment.start_s:
            for part in segment.parts:
                part.account.spoil("the clock went backwards")

    def read(self, reading: Reading, at_s: float) -> None:
        """Split the joules up to this reading over the segments that lie before it."""
        self.total.read(reading, at_s)
        reason = fault(reading)
        value = reading.energy_j or 0.0
        if reason or self._reason:
            self._spoil(reason or self._reason or "")
            self._reason, self._given_s, self._given_j = reason, at_s, value
        elif value < self._seen_j or at_s < self._given_s:
            self._spoil(RESET if value < self._seen_j else "the clock went backwards")
            self._given_s, self._given_j = at_s, value
        elif at_s > self._given_s:
            # What was given is a sum of parts: it may be above what was read by a rounding error.
            self._give(max(0.0, value - self._given_j) / (at_s - self._given_s), at_s)
        self._seen_j = value

    def _give(self, power_w: float, until_s: float) -> None:
        while self._waiting and self._given_s < until_s:
            segment = self._waiting[0]
            end_s = min(segment.end_s, until_s)
            elapsed_s = max(0.0, end_s - self._given_s)
            spent_j = power_w * elapsed_s
            idle_j = min(spent_j, self._idle_w * elapsed_s)
            for part in segment.parts:
                part.account.add(idle_j * part.idle + (spent_j - idle_j) * part.busy, idle_j * part.idle)
            self._given_s, self._given_j = max(self._given_s, end_s), self._given_j + spent_j
            if end_s >= segment.end_s:
                self._waiting.popleft()

    def _spoil(self, reason: str) -> None:
        for segment in self._waiting:
            for part in segment.parts:
                part.account.spoil(reason)
        self._waiting.clear()

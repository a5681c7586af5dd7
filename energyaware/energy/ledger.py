"""A node's ledger: whose joules they are.

At every opening and closing of a window, and at every tick in between, all sources are read and the joules since the
last reading are given away:

- those of a GPU to the open windows of the stage that holds the GPU;
- those of CPU and DRAM to the open windows, in proportion to the CPU time that the windows' process trees used since
  the last reading (equally where none used any);
- those that no window claims to the node's idle time.

So windows + idle = node, always. A reading that failed, went backwards or is not a number gives null to every window
open at that time, with the reason, and never a joule.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from energyaware.energy.base import JOULES_PER_KWH, Channel, Reading, Source, WindowName
from energyaware.rows import Row

CpuTime = Callable[[Sequence[int]], float]
"""Seconds of CPU time used so far by the process trees under these process ids."""


@dataclass
class _Account:
    """Joules of one channel in one window; unknown from the first failed reading on."""

    energy_j: float = 0.0
    reason: str | None = None

    def add(self, reading: Reading, share: float) -> None:
        if reading.energy_j is None:
            self.reason = self.reason or reading.reason
        else:
            self.energy_j += share * reading.energy_j


@dataclass
class _Window:
    """An open or closed window; `stage_id` None is the node's idle time."""

    name: str
    stage_id: str | None = None
    attempt: int | None = None
    epoch: int | None = None
    pids: tuple[int, ...] = ()
    gpus: frozenset[str] = frozenset()
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    duration_s: float = 0.0
    cpu_time_s: float = 0.0
    accounts: dict[Channel, _Account] = field(default_factory=dict)

    def add(self, channel: Channel, reading: Reading, share: float) -> None:
        self.accounts.setdefault(channel, _Account()).add(reading, share)


class Ledger:
    """Reads the sources of one node and keeps the accounts of its windows.

    Args:
        node: name of the machine, as it stands in the rows.
        sources: what to read; their channels must not overlap.
        cpu_time: CPU time of process trees.
        clock: monotonic seconds.
    """

    def __init__(
        self, node: str, sources: Sequence[Source], cpu_time: CpuTime, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._node, self._sources, self._cpu_time, self._clock = node, sources, cpu_time, clock
        self._open: dict[int, _Window] = {}
        self._closed: list[_Window] = []
        self._idle = _Window("idle")
        self._tokens = 0
        self._read_at = clock()
        self._last = self._read()

    def open(
        self,
        stage_id: str,
        attempt: int,
        name: WindowName,
        epoch: int | None,
        pids: Sequence[int],
        gpus: Sequence[str] = (),
    ) -> int:
        """Open a window for the processes `pids`, holding the GPUs with these UUIDs. Returns its token."""
        self.tick()
        self._tokens += 1
        self._open[self._tokens] = _Window(
            name, stage_id, attempt, epoch, tuple(pids), frozenset(gpus), cpu_time_s=self._cpu_time(pids)
        )
        return self._tokens

    def close(self, token: int) -> None:
        """Close a window."""
        self.tick()
        self._closed.append(self._open.pop(token))

    def tick(self) -> None:
        """Read the sources and give the joules since the last reading to whom they belong."""
        now = self._clock()
        readings = self._read()
        elapsed_s = now - self._read_at
        windows = list(self._open.values())
        shares = self._shares(windows)
        for channel in readings.keys() | self._last.keys():
            spent = _difference(self._last.get(channel), readings.get(channel), elapsed_s)
            owners = windows
            if channel.device is not None:
                owners = [window for window in windows if channel.device in window.gpus]
            if not owners:
                self._idle.add(channel, spent, 1.0)
            total = sum(shares[id(window)] for window in owners)
            for window in owners:
                window.add(channel, spent, shares[id(window)] / total)
        read = {channel.device for channel in readings.keys() | self._last.keys()}
        for window in windows or [self._idle]:
            window.duration_s += max(0.0, elapsed_s)
            for gpu in window.gpus - read:  # a window without its GPU's row would seem to have cost less
                window.add(Channel("gpu", gpu, "none", measured=False), Reading(None, "no source reads this GPU"), 1.0)
        self._last, self._read_at = readings, now

    def collect(self, stage_id: str, attempt: int, *, kept: bool) -> list[Row]:
        """Rows of all windows of an attempt, which the ledger then forgets; windows still open are closed first."""
        for token in [t for t, w in self._open.items() if (w.stage_id, w.attempt) == (stage_id, attempt)]:
            self.close(token)
        mine = [w for w in self._closed if (w.stage_id, w.attempt) == (stage_id, attempt)]
        self._closed = [w for w in self._closed if (w.stage_id, w.attempt) != (stage_id, attempt)]
        return [row for window in mine for row in self._rows(window, kept=kept)]

    def collect_idle(self) -> list[Row]:
        """Rows of the node's idle time since the last call."""
        self.tick()
        idle, self._idle = self._idle, _Window("idle")
        return self._rows(idle, kept=True)

    def now(self) -> dict[str, Any]:
        """What is open, and joules so far in windows and idle, for showing progress; unknown parts left out."""
        return {
            "open": [(w.stage_id, w.name, w.epoch, w.duration_s) for w in self._open.values()],
            "joules": {w.stage_id: sum(a.energy_j for a in w.accounts.values()) for w in self._open.values()},
        }

    def factor(self) -> float | None:
        """Emission factor, g CO2e per kWh, PUE applied; None if no source knows one."""
        return next((f for source in self._sources if (f := source.carbon_g_per_kwh()) is not None), None)

    def shut(self) -> None:
        """Close the sources."""
        for source in self._sources:
            source.close()

    def _read(self) -> dict[Channel, Reading]:
        return {channel: reading for source in self._sources for channel, reading in source.read().items()}

    def _shares(self, windows: list[_Window]) -> dict[int, float]:
        """CPU time that each window's processes used since the last reading, all 1 where nobody used any."""
        used = {}
        for window in windows:
            total_s = self._cpu_time(window.pids)
            used[id(window)] = max(0.0, total_s - window.cpu_time_s)
            window.cpu_time_s = total_s
        return used if all(used.values()) else {window: share + 1e-9 for window, share in used.items()}

    def _rows(self, window: _Window, *, kept: bool) -> list[Row]:
        factor = self.factor()
        return [
            {
                "stage_id": window.stage_id,
                "attempt": window.attempt,
                "node": self._node,
                "window": window.name,
                "epoch": window.epoch,
                "component": channel.component,
                "device": channel.device,
                "energy_j": None if account.reason else account.energy_j,
                "duration_s": window.duration_s,
                "source": channel.source,
                "measured": channel.measured,
                "kept": kept,
                "reason": account.reason,
                "carbon_g": None if account.reason or factor is None else account.energy_j / JOULES_PER_KWH * factor,
                "started_at": window.started_at,
            }
            for channel, account in sorted(window.accounts.items(), key=lambda item: _order(item[0]))
        ]


def _order(channel: Channel) -> tuple[str, str]:
    return channel.component, channel.device or ""


def _difference(before: Reading | None, after: Reading | None, elapsed_s: float) -> Reading:
    """Joules between two readings, or why they are unknown."""
    if before is None or after is None:
        return Reading(None, "the channel appeared or vanished in the window")
    if before.energy_j is None or after.energy_j is None:
        return Reading(None, after.reason or before.reason or "unreadable")
    spent = after.energy_j - before.energy_j
    if not math.isfinite(spent):
        return Reading(None, "the source returned a value that is not a number")
    if spent < 0:
        return Reading(None, "the counter went backwards (reset)")
    if elapsed_s < 0:
        return Reading(None, "the clock went backwards")
    return Reading(spent)

"""CPU and DRAM from RAPL, the energy counters in the processor, through Linux' powercap tree.

Intel's and AMD's both appear as `intel-rapl:N`, named `package-N`; where the processor counts its memory as well, the
zone `dram` below it. `core` and `uncore` are parts of the package, `psys` and `intel-rapl-mmio` show it once more: none
of them is added. The tree lies in /sys/class/powercap, or where the environment variable ENERGYAWARE_POWERCAP says,
such as a folder that the host's /sys/devices/virtual/powercap is mounted to in a container, which sees none itself.

https://docs.kernel.org/power/powercap/powercap.html
"""

import os
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from energyaware.energy.base import Channel, Component, Reading

POWERCAP: Final = "ENERGYAWARE_POWERCAP"
"""Environment variable: folder to read in place of /sys/class/powercap."""

JOULES_PER_MICROJOULE: Final = 1e-6

COUNTED: Final[dict[Component, str]] = {"cpu": "package", "dram": "dram"}
"""What RAPL calls the components."""

RESET_FACTOR: Final = 10.0
"""Power over the zone's maximum by this factor is no power: its counter started anew."""

RESET_W: Final = 3000.0
"""The same for a package that states no maximum; AMD's state none."""

SUSTAINED_FACTOR: Final = 2.0
"""What a package draws over seconds stays under its stated maximum times this: short bursts may exceed it."""

SUSTAINED_W: Final = 1000.0
"""The same for a package that states no maximum."""

STEP_S: Final = 0.05
"""A counter moves in steps, each ms in hardware: over times this short, power may be the step's and not the chip's."""

SAME_COUNTER_UJ: Final = 1e6
"""Counters of two dies of a package that lie this close are one: see `_distinct`."""

PERMIT: Final = (
    "since kernel 5.10 only root may read RAPL, for its readings can leak secrets of other processes (PLATYPUS, "
    "CVE-2020-8694). Where you trust all its users: `sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj` "
    "lasts until the next boot; for good, a udev rule: "
    '`ACTION=="add", SUBSYSTEM=="powercap", RUN+="/bin/chmod a+r /sys%p/energy_uj"`'
)

MOUNT: Final = (
    "in a container, mount the host's read-only and name it: "
    f"`docker run -v /sys/devices/virtual/powercap:/powercap:ro -e {POWERCAP}=/powercap …`"
)


@dataclass(frozen=True)
class Lack:
    """Why RAPL does not give a component.

    Attributes:
        state: absent, or there and unreadable.
        reason: what and why, in one line.
        advice: what can be done about it; None where nothing can.
    """

    state: Literal["absent", "unreadable"]
    reason: str
    advice: str | None


class _Unreadable(Exception):
    """What cannot be read, and why; `advice` on what to do about it."""

    def __init__(self, reason: str, advice: str | None = None) -> None:
        super().__init__(reason)
        self.advice = advice


class RaplSource:
    """Joules of the packages and their memory, over all sockets of the machine, since this source was started.

    Its channels are the components that could be read at the start; `lacking` says of the others why not. Counters
    wrap, every 234 s at 280 W on one AMD server: read far more often than that.

    Args:
        components: what is wanted of cpu and dram.
        root: the powercap tree; None: see the module.
        clock: monotonic seconds.
    """

    prompt: Final = True

    def __init__(
        self,
        components: Collection[Component] = ("cpu", "dram"),
        root: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        root = root or Path(os.environ.get(POWERCAP) or "/sys/class/powercap")
        self._clock = clock
        self._counters: dict[Channel, list[_Counter]] = {}
        self.lacking: dict[Component, Lack] = {}
        for component in [name for name in COUNTED if name in components]:
            zones = _find(root, component)
            if isinstance(zones, Lack):
                self.lacking[component] = zones
                continue
            channel = Channel(component, None, f"rapl {COUNTED[component]}", measured=True)
            try:
                self._counters[channel] = [_Counter(zone, clock) for zone in zones]
            except _Unreadable as problem:
                self.lacking[component] = Lack("unreadable", str(problem), problem.advice)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Each is the sum over all sockets."""
        return tuple(self._counters)

    def read(self, channels: Collection[Channel] | None = None) -> dict[Channel, Reading]:
        """Joules since the start; None where any socket's cannot be told."""
        return {
            channel: self._read(counters)
            for channel, counters in self._counters.items()
            if channels is None or channel in channels
        }

    def step_s(self, channel: Channel) -> float:
        """The counters move each millisecond."""
        return 0.0

    def close(self) -> None:
        """Nothing is held: files are opened for each reading."""

    def _read(self, counters: list["_Counter"]) -> Reading:
        at_s = self._clock()
        energy_j, reason = 0.0, None
        for counter in counters:  # all of them, also after a failure: each keeps its own account of wraps
            try:
                energy_j += counter.read_j()
            except _Unreadable as problem:
                reason = reason or str(problem)
        return Reading(None if reason else energy_j, reason, at_s)


class _Counter:
    """One zone's counter, without its wraps."""

    def __init__(self, zone: Path, clock: Callable[[], float]) -> None:
        self._zone, self._clock = zone, clock
        self._range_uj = _microjoules(zone / "max_energy_range_uj")
        stated_w = _stated_maximum_w(zone)
        self._reset_w = RESET_FACTOR * stated_w if stated_w else RESET_W
        self._sustained_w = SUSTAINED_FACTOR * stated_w if stated_w else SUSTAINED_W
        self._total_uj = 0
        self._at_s, self._last_uj = clock(), self._now_uj()

    def read_j(self) -> float:
        """Joules since the start.

        Raises:
            _Unreadable: the counter cannot be read, was reset, or was left unread for so long that it may have wrapped
                unseen. What it drew meanwhile is lost; from here on it is sound again.
        """
        at_s, now_uj = self._clock(), self._now_uj()
        elapsed_s, moved_uj = at_s - self._at_s, now_uj - self._last_uj
        self._at_s, self._last_uj = at_s, now_uj
        spent_uj = moved_uj if moved_uj >= 0 else moved_uj + self._range_uj
        if spent_uj * JOULES_PER_MICROJOULE > self._reset_w * (elapsed_s + STEP_S):
            direction = "forwards by more than the processor can draw" if moved_uj >= 0 else "backwards"
            raise _Unreadable(f"{self._zone / 'energy_uj'}: the counter went {direction} (reset)")
        if self._sustained_w * elapsed_s > self._range_uj * JOULES_PER_MICROJOULE:
            raise _Unreadable(
                f"{self._zone / 'energy_uj'}: not read for {elapsed_s:.0f} s, in which it may have wrapped unseen"
            )
        self._total_uj += spent_uj
        return self._total_uj * JOULES_PER_MICROJOULE

    def _now_uj(self) -> int:
        path = self._zone / "energy_uj"
        now_uj = _microjoules(path)
        if now_uj > self._range_uj:
            raise _Unreadable(f"{path}: holds {now_uj}, above its max_energy_range_uj of {self._range_uj}")
        return now_uj


def _find(root: Path, component: Component) -> list[Path] | Lack:
    """The zones of a component, or why it is not read."""
    try:
        packages = _distinct(_zones([root, root / "intel-rapl"], r"intel-rapl:\d+", "package"))
        memories = [_zones([package], rf"{package.name}:\d+", "dram") for package in packages]
    except _Unreadable as problem:
        return Lack("unreadable", str(problem), problem.advice)
    if not packages:
        return Lack("absent", f"no RAPL package in {root}: a virtual machine, a container, or no such processor", MOUNT)
    if component == "cpu":
        return packages
    if not all(memories):  # a sum over some sockets would pass for all of the machine's memory
        without = [package.name for package, memory in zip(packages, memories, strict=True) if not memory]
        return Lack("absent", f"no dram zone in {', '.join(without)} of {root}: this processor counts none", None)
    return [zone for memory in memories for zone in memory]


def _zones(folders: list[Path], pattern: str, name: str) -> list[Path]:
    """Zones in any of the folders whose folder is called like the pattern, and whose `name` starts with this."""
    found = {path.name: path for folder in folders for path in _entries(folder) if re.fullmatch(pattern, path.name)}
    in_order = sorted(found, key=lambda zone: [int(number) for number in re.findall(r"\d+", zone)])
    return [found[zone] for zone in in_order if _text(found[zone] / "name").startswith(name)]


def _distinct(packages: list[Path]) -> list[Path]:
    """The packages, without those that show another's counter.

    AMD's first and second Zen have a zone for every die of a package, all of which show the package's counter; Intel's
    packages of several dies have a counter for each (https://github.com/mlco2/codecarbon/issues/1274). One counter read
    before and after another's reading brackets it; two counters do so by chance once in tens of thousands of starts.

    Raises:
        _Unreadable: a counter that has to be compared cannot be read.
    """
    kept: dict[str, list[Path]] = {}
    for zone in packages:
        dies = kept.setdefault(_text(zone / "name").partition("-die-")[0], [])
        if not any(_same_counter(zone, other) for other in dies):
            dies.append(zone)
    return [zone for dies in kept.values() for zone in dies]


def _same_counter(zone: Path, other: Path) -> bool:
    before_uj, middle_uj, after_uj = (_microjoules(path / "energy_uj") for path in (other, zone, other))
    return middle_uj > 0 and before_uj - SAME_COUNTER_UJ <= middle_uj <= after_uj + SAME_COUNTER_UJ


def _stated_maximum_w(zone: Path) -> float | None:
    """The largest power that the zone's constraints allow to be set; None where they state none."""
    stated_uw = []
    for path in zone.glob("constraint_*_max_power_uw"):
        try:
            stated_uw.append(_microjoules(path))
        except _Unreadable:  # such as "No data available", which the short-term constraint of many packages says
            continue
    return max(stated_uw, default=0) * JOULES_PER_MICROJOULE or None


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir()) if folder.is_dir() else []
    except OSError as problem:
        raise _Unreadable(f"{folder}: {problem.strerror}", PERMIT) from None


def _microjoules(path: Path) -> int:
    text = _text(path)
    if not (text.isascii() and text.isdigit()):
        raise _Unreadable(f"{path}: holds {text[:40]!r}, which is no count")
    return int(text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except PermissionError as problem:
        raise _Unreadable(f"{path}: {problem.strerror}", PERMIT) from None
    except FileNotFoundError as problem:  # also the links that are left in a container when their targets are hidden
        raise _Unreadable(f"{path}: {problem.strerror}", MOUNT) from None
    except OSError as problem:
        raise _Unreadable(f"{path}: {problem.strerror}") from None

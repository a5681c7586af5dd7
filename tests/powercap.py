"""A stand-in for Linux' powercap tree: zones of RAPL in a folder, whose counters a process of its own moves.

Programs see it through ENERGYAWARE_POWERCAP (`Powercap.environment`). As in sysfs, the class folder holds links to all
zones, and the zones lie in one another in a folder of devices beside it.

`python -m tests.powercap FOLDER '{"intel-rapl:0": [[0, 50], [2.5, 80]]}' [START]` lets package 0 draw 50 W from START
on, on the monotonic clock, and 80 W from 2.5 s after it, until the process is ended.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

STEP_S = 0.01

Waveform = Sequence[tuple[float, float]]
"""Power in W from each of these seconds on, in the order of time."""

INTEL_J, AMD_J = 262143.328850, 65532.610987
"""Where counters of these makes wrap."""


@dataclass(frozen=True)
class Powercap:
    """A tree in a folder, empty at first; `intel` and `amd` fill it.

    Zones are named by their folders: intel-rapl:0 is a package, intel-rapl:0:1 a part of it.
    """

    folder: Path

    @property
    def root(self) -> Path:
        """The class folder, as /sys/class/powercap."""
        return self.folder / "class"

    @property
    def devices(self) -> Path:
        """As /sys/devices/virtual/powercap."""
        return self.folder / "devices"

    @property
    def environment(self) -> dict[str, str]:
        return {"ENERGYAWARE_POWERCAP": str(self.root)}

    def zone(self, zone: str) -> Path:
        """Its folder."""
        kind, *numbers = zone.split(":")
        parents = itertools.accumulate(numbers, lambda parent, number: f"{parent}:{number}", initial=kind)
        return self.devices.joinpath(*parents)

    def add(
        self, zone: str, name: str, range_j: float = INTEL_J, start_j: float = 1.0, max_power_w: float | None = None
    ) -> None:
        """Add a zone; `max_power_w` is what its constraint states."""
        folder = self.zone(zone)
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{round(range_j * 1e6)}\n")
        if max_power_w is not None:
            (folder / "constraint_0_max_power_uw").write_text(f"{round(max_power_w * 1e6)}\n")
        self.set(zone, round(start_j * 1e6))
        self.root.mkdir(exist_ok=True)
        (self.root / zone).symlink_to(folder)

    def set(self, zone: str, energy_uj: object) -> None:
        """What its counter shows, in one step."""
        path = self.zone(zone) / "energy_uj"
        new = path.with_name(".energy_uj")
        new.write_text(f"{energy_uj}\n")
        new.replace(path)

    def draw(self, zone: str, energy_j: float) -> None:
        """Let its counter move by so many joules, and wrap."""
        folder = self.zone(zone)
        before_uj, range_uj = (int((folder / file).read_text()) for file in ("energy_uj", "max_energy_range_uj"))
        self.set(zone, (before_uj + round(energy_j * 1e6)) % range_uj)

    def hide(self, zone: str, file: str = "energy_uj") -> None:
        """Make a file unreadable to anybody, root too: a folder in its place."""
        path = self.zone(zone) / file
        path.unlink()
        path.mkdir()

    def mask(self) -> None:
        """Hide the devices, as container runtimes do: the links of the class folder lead nowhere."""
        shutil.rmtree(self.devices)

    @contextmanager
    def drawing(self, waveforms: Mapping[str, Waveform]) -> Iterator[float]:
        """Let zones draw power while the block runs. Yields when that began on the monotonic clock."""
        start_s = time.monotonic()
        command = [sys.executable, "-m", "tests.powercap", str(self.folder), json.dumps(waveforms), str(start_s)]
        with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()  # the first step was made
            try:
                yield start_s
                assert writer.poll() is None, "the writer ended"
            finally:
                writer.kill()


def intel(powercap: Powercap, sockets: int = 2, *, dram: bool = True, range_j: float = INTEL_J) -> Powercap:
    """An Intel server: packages with core and dram, psys over all, and the packages once more in mmio."""
    for n in range(sockets):
        powercap.add(f"intel-rapl:{n}", f"package-{n}", range_j, start_j=10 + n, max_power_w=200)
        powercap.add(f"intel-rapl:{n}:0", "core", range_j)
        if dram:
            powercap.add(f"intel-rapl:{n}:1", "dram", range_j, start_j=5 + n, max_power_w=40)
        powercap.add(f"intel-rapl-mmio:{n}", f"package-{n}", range_j, start_j=10 + n)
    powercap.add(f"intel-rapl:{sockets}", "psys", range_j)
    return powercap


def amd(powercap: Powercap, sockets: int = 1) -> Powercap:
    """An AMD server: packages with core, whose counters wrap sooner; nothing on memory, no constraints."""
    for n in range(sockets):
        powercap.add(f"intel-rapl:{n}", f"package-{n}", AMD_J, start_j=10 + n)
        powercap.add(f"intel-rapl:{n}:0", "core", AMD_J)
    return powercap


def drawn_j(waveform: Waveform, until_s: float) -> float:
    """Joules from time 0 until then."""
    ends = [*(at_s for at_s, _ in waveform[1:]), until_s]
    return sum(
        power_w * max(0.0, min(end_s, until_s) - at_s) for (at_s, power_w), end_s in zip(waveform, ends, strict=True)
    )


def main() -> None:
    folder, waveforms, *start = sys.argv[1:]
    powercap, start_s = Powercap(Path(folder)), float(start[0]) if start else time.monotonic()
    zones: dict[str, Waveform] = json.loads(waveforms)
    shown_j = dict.fromkeys(zones, 0.0)
    parent = os.getppid()
    with suppress(PermissionError):  # real counters do not wait for a processor
        os.nice(-15)
    for step in itertools.count():
        now_s = time.monotonic() - start_s
        for zone, waveform in zones.items():
            total_j = drawn_j(waveform, now_s)
            powercap.draw(zone, total_j - shown_j[zone])
            shown_j[zone] = total_j
        if step == 0:
            print(flush=True)
        if os.getppid() != parent:  # who started it is gone without ending it
            return
        time.sleep(STEP_S)


if __name__ == "__main__":
    main()

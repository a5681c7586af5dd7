"""One meter on one job's GPU, as `meter_accuracy.py` runs it: in a process of its own, told when the windows are.

It is given the tool's name and a job as JSON, says `ready` when all that takes long to import is there, reads the
windows' ends on the monotonic clock from its input, and prints what it measured, one figure a window.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

JOULES_PER_KWH: Final = 3.6e6


@dataclass(frozen=True)
class Job:
    """What a user has each tool measure.

    Attributes:
        names: its GPUs as the scheduler names them, for our meter.
        indices: as CUDA numbers them within the job, for Zeus.
        gpu_ids: for CodeCarbon where it is told.
        visible: CUDA_VISIBLE_DEVICES of the job; None where it is not set.
        beside: GPUs of another job on the same node.
    """

    names: tuple[str, ...] = ("0",)
    indices: tuple[int, ...] = (0,)
    gpu_ids: tuple[int | str, ...] = (0,)
    visible: str | None = None
    beside: tuple[str, ...] = ()


@dataclass
class Figure:
    """What a tool made of one window.

    Attributes:
        began_s: monotonic clock when its beginning had returned.
        ended_s: when its end was called.
        begin_ms: how long its beginning took.
        end_ms: how long its end took.
        energy_j: its figure; None where it gave none.
        says: why there is none, or what it said beside its figure about GPUs.
    """

    began_s: float
    ended_s: float
    begin_ms: float
    end_ms: float
    energy_j: float | None = None
    says: str | None = None


class Tool(Protocol):
    """A meter in use."""

    def begin(self) -> None:
        """A window opens."""

    def end(self) -> float | None:
        """It closes. Returns its joules, if they are known at once."""

    def late_figures(self) -> list[tuple[float | None, str | None]]:
        """Joules and reasons of all windows, where they are known at the end of the job only."""


class Ours:
    """The product's meter of a node, with this job and, where there is one, another beside it."""

    def __init__(self, job: Job) -> None:
        from energyaware.energy.base import MeterSettings
        from energyaware.energy.service import NodeService, Post

        self._key, self._token, self._repeats = ("measured", 1), 0, 0
        post = Post(node="node", run="accuracy", sweep="accuracy", ledger=None)
        self._service = NodeService(post, MeterSettings(components=("gpu",), idle_s=0))
        for stage_id, gpus in (("beside", job.beside), (self._key[0], job.names)):
            if gpus:
                about = {"stage_id": stage_id, "attempt": 1, "kind": "inference", "started_at": datetime.now(UTC)}
                self._service.begin(about, [os.getpid()], gpus, 1)

    def begin(self) -> None:
        self._repeats += 1
        self._token = self._service.open(self._key, "decode", None, self._repeats)

    def end(self) -> float | None:
        self._service.close(self._token, None)
        return None

    def late_figures(self) -> list[tuple[float | None, str | None]]:
        rows = [row for row in self._service.end(self._key, kept=True) if row["window"] == "decode"]
        self._service.finish()
        return [(row["energy_j"], remark(row)) for row in rows]


def remark(row: dict[str, Any]) -> str | None:
    """What a row of the energy table says beside its figure, or instead of it."""
    if row["reason"] is None:
        return ", ".join(mark for mark in row["marks"] if mark != "short") or None
    sampled_j = row.get("power_integral_j")
    return row["reason"] + ("" if sampled_j is None else f" (power_integral_j: {sampled_j:.0f})")


class CodeCarbon:
    """A tracker around each window, reading once a second, started before once: that takes it seconds."""

    def __init__(self, gpu_ids: tuple[int | str, ...] | None) -> None:
        self._gpu_ids = gpu_ids
        self.begin()
        self.end()

    def begin(self) -> None:
        from codecarbon import OfflineEmissionsTracker

        told = {} if self._gpu_ids is None else {"gpu_ids": list(self._gpu_ids)}
        self._tracker = OfflineEmissionsTracker(
            country_iso_code="DEU", measure_power_secs=1, save_to_file=False, log_level="warning", **told
        )
        self._tracker.start()

    def end(self) -> float | None:
        if self._tracker.stop() is None:
            return None
        energy_j: float = self._tracker.final_emissions_data.gpu_energy * JOULES_PER_KWH
        return energy_j

    def late_figures(self) -> list[tuple[float | None, str | None]]:
        return []


class Zeus:
    """A monitor of the job's GPUs. There is no kernel to wait for here: `sync_execution` is off."""

    def __init__(self, job: Job) -> None:
        from zeus.monitor import ZeusMonitor

        self._monitor = ZeusMonitor(gpu_indices=list(job.indices), cpu_indices=[])

    def begin(self) -> None:
        self._monitor.begin_window("window", sync_execution=False)

    def end(self) -> float | None:
        energy_j: float = self._monitor.end_window("window", sync_execution=False).total_energy
        return energy_j

    def late_figures(self) -> list[tuple[float | None, str | None]]:
        return []


TOOLS: Final[dict[str, tuple[tuple[str, ...], Callable[[Job], Tool]]]] = {
    "energyaware": (("energyaware.energy.service", "pynvml"), Ours),
    "CodeCarbon": (("pandas", "psutil", "requests"), lambda _: CodeCarbon(None)),
    "CodeCarbon, gpu_ids": (("pandas", "psutil", "requests"), lambda job: CodeCarbon(job.gpu_ids)),
    "Zeus": (("zeus.monitor",), Zeus),
}
"""Name -> what can be imported before the scenario is there, and how to start it."""


class Remarks(logging.Handler):
    """What libraries warn of, as far as it is about GPUs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []
        logging.captureWarnings(capture=True)
        for name in ("codecarbon", "zeus", "py.warnings"):
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().rpartition("Warning: ")[2].partition("\n")[0].partition(". ")[0]
        if "gpu" in line.lower() and line not in self._lines:
            self._lines.append(line)

    def taken(self) -> str | None:
        """What was said since the last look."""
        said, self._lines = "; ".join(self._lines), []
        return f"warns: {said}" if said else None


def wait_until(at_s: float) -> None:
    time.sleep(max(0.0, at_s - time.monotonic()))


def measure(tool: Tool, begin_s: float, end_s: float) -> Figure:
    """One window. What the user brackets lies between the return of the one call and the other call."""
    wait_until(begin_s)
    before_s = time.monotonic()
    raised: Exception | None = None
    try:
        tool.begin()
    except Exception as problem:
        raised = problem
    began_s = time.monotonic()
    if began_s >= end_s:
        raise SystemExit("came too late for its window: give it more --warm-up")
    wait_until(end_s)
    ended_s, energy_j = time.monotonic(), None
    if raised is None:
        try:
            energy_j = tool.end()
        except Exception as problem:
            raised = problem
    after_s = time.monotonic()
    says = describe(raised) if raised else None
    return Figure(began_s, ended_s, 1e3 * (began_s - before_s), 1e3 * (after_s - ended_s), energy_j, says)


def describe(problem: Exception) -> str:
    return f"raises {type(problem).__name__}: {str(problem).partition(chr(10))[0]}"


def run(name: str, job: Job, windows: list[tuple[float, float]]) -> list[Figure]:
    remarks = Remarks()
    try:
        tool = TOOLS[name][1](job)
    except Exception as problem:
        return [Figure(begin_s, end_s, 0.0, 0.0, None, describe(problem)) for begin_s, end_s in windows]
    figures = []
    for begin_s, end_s in windows:
        figure = measure(tool, begin_s, end_s)
        figure.says = figure.says or remarks.taken()
        figures.append(figure)
    for figure, (energy_j, says) in zip(figures, tool.late_figures(), strict=False):
        figure.energy_j, figure.says = energy_j, says
    return figures


def main() -> None:
    name, job = sys.argv[1], Job(**json.loads(sys.argv[2]))
    for module in TOOLS[name][0]:
        __import__(module)
    print("ready", flush=True)
    windows = json.loads(sys.stdin.readline())
    print(json.dumps([asdict(figure) for figure in run(name, job, windows)]), flush=True)


if __name__ == "__main__":
    main()

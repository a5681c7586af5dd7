"""One meter at work in a process of its own, as `meter_cost.py` runs it: `meter_cost_parts.py PART SECONDS WINDOWS`.

Each part prints what it took, as JSON. All are on a node with eight simulated GPUs, all held by one job.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

GPUS: Final = 8
CALM_S: Final = 5.0
"""What starting stirs up is over by then."""

KEY: Final = ("stage", 1)


def about() -> dict[str, Any]:
    return {"stage_id": KEY[0], "attempt": KEY[1], "kind": "finetune", "started_at": datetime.now(UTC)}


@contextmanager
def gang() -> Iterator[list[int]]:
    """Process ids of as many workers as there are GPUs."""
    workers = [subprocess.Popen(["sleep", "3600"]) for _ in range(GPUS)]
    try:
        yield [worker.pid for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def over_time(processes: Sequence[psutil.Process], seconds: float) -> list[dict[str, float]]:
    """CPU seconds per second of each process, and its memory at the end."""
    before = [(time.monotonic(), used_s(process)) for process in processes]
    time.sleep(seconds)
    found = []
    for process, (since_s, before_s) in zip(processes, before, strict=True):
        spent_s, elapsed_s = used_s(process) - before_s, time.monotonic() - since_s
        memory = process.memory_full_info()
        found.append({"cpu": spent_s / elapsed_s, "rss_mib": memory.rss / 2**20, "uss_mib": memory.uss / 2**20})
    return found


def used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def in_windows(windows: int, begin: Callable[[], Any], end: Callable[[Any], Any]) -> dict[str, list[float]]:
    """Milliseconds of each opening and closing; between them, random times up to a step of the counters."""
    draw, opened, closed = random.Random(0), [], []
    for _ in range(windows):
        before_s = time.perf_counter()
        token = begin()
        opened.append(1e3 * (time.perf_counter() - before_s))
        time.sleep(draw.uniform(0, 0.1))
        before_s = time.perf_counter()
        end(token)
        closed.append(1e3 * (time.perf_counter() - before_s))
        time.sleep(draw.uniform(0, 0.1))
    return {"open_ms": opened, "close_ms": closed}


def ray_actor(seconds: float, windows: int) -> dict[str, Any]:
    """The product's meter as sweeps run it, beside an actor that does nothing."""
    import ray

    from cluster.connect import join
    from energyaware.energy.base import MeterSettings
    from energyaware.store import Store
    from sweep.node_meter import NodeMeters, StageWindows

    @ray.remote(num_cpus=0)
    class Bare:
        def here(self) -> None:
            """Answer."""

    with tempfile.TemporaryDirectory(prefix="cost-") as folder, join("local"), gang() as pids:
        store = Store(folder)
        store.create()
        meters = NodeMeters(MeterSettings(), store, run="cost", sweep="cost")
        meters.start()
        (meter,) = meters.all()
        bare = Bare.remote()
        ray.get(bare.here.remote())
        actors = {process.cmdline()[0].partition(":")[2].strip(":"): process for process in ray_processes()}
        ray.get(meter.actor.begin.remote(about(), pids, [str(index) for index in range(GPUS)], os.cpu_count()))
        stage = StageWindows(meter.actor, KEY)
        token = stage.open("train", 1, None)
        time.sleep(CALM_S)
        ours, nothing = over_time([actors["NodeMeter"], actors["Bare"]], seconds)
        stage.close(token, None)
        before_s = used_s(actors["NodeMeter"]), time.monotonic()
        latencies = in_windows(windows, lambda: stage.open("train", 1, None), lambda token: stage.close(token, None))
        spent_s = used_s(actors["NodeMeter"]) - before_s[0] - ours["cpu"] * (time.monotonic() - before_s[1])
        ledger = meter.post.ledger
        time.sleep(CALM_S)  # it is written at the next heartbeat
        written = ledger_cost(ledger)
        ray.get(meter.actor.end.remote(KEY, kept=True))
        last = ray.get(meter.actor.finish.remote())
    lost = [row["reason"] for row in last["nodes"] if row["energy_j"] is None]
    return {
        **ours,
        "bare": nothing,
        **latencies,
        "cpu_ms_per_window": 1e3 * spent_s / windows,
        "ledger": written | {"windows": windows + 1},
        "sources": sorted({row["source"] for row in last["nodes"]}),
        "unknown": lost,
    }


def ray_processes() -> list[psutil.Process]:
    """Of the Ray that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        line = process.cmdline()
        if line and line[0] in {"ray::NodeMeter", "ray::Bare"}:
            found.append(process)
    return found


def ledger_cost(place: Any) -> dict[str, Any]:
    """Size of a ledger, and how long writing it takes."""
    from energyaware.energy.ledger_file import LedgerPlace, read_ledger, write_ledger

    again = LedgerPlace(place.files, "again.json")
    content, took_ms = read_ledger(place), []
    for _ in range(20):
        before_s = time.perf_counter()
        write_ledger(again, content)
        took_ms.append(1e3 * (time.perf_counter() - before_s))
    return {"kib": len(place.files.read(place.name)) / 1024, "write_ms": took_ms}


@contextmanager
def service() -> Iterator[Any]:
    """The product's meter in this process."""
    from energyaware.energy.base import MeterSettings
    from energyaware.energy.ledger_file import LedgerPlace
    from energyaware.energy.service import NodeService, Post
    from energyaware.files_local import LocalFiles

    with tempfile.TemporaryDirectory(prefix="cost-") as folder, gang() as pids:
        ledger = LedgerPlace(LocalFiles(Path(folder)), "ledger.json")
        meter = NodeService(Post("node", "cost", "cost", ledger), MeterSettings())
        meter.begin(about(), pids, [str(index) for index in range(GPUS)], os.cpu_count() or 1)
        yield meter
        meter.finish()


def service_windows(seconds: float, windows: int) -> dict[str, Any]:
    """Opening and closing without Ray."""
    with service() as meter:
        return in_windows(windows, lambda: meter.open(KEY, "train", 1, None), lambda token: meter.close(token, None))


def service_calls(seconds: float, windows: int) -> dict[str, Any]:
    with service() as meter:
        token = meter.open(KEY, "train", 1, None)
        found = calls_over_time(seconds)
        meter.close(token, None)
        before, since_s = calls(), time.monotonic()
        in_windows(windows, lambda: meter.open(KEY, "train", 1, None), lambda token: meter.close(token, None))
        more = calls() - before - found["calls_per_s"] * (time.monotonic() - since_s)
    return found | {"calls_per_window": more / windows}


def codecarbon(every_s: float, seconds: float, windows: int) -> dict[str, Any]:
    """A tracker as its documentation has it."""
    tracker = start_tracker(every_s)
    (found,) = over_time([psutil.Process()], seconds)
    tracker.stop()
    return found


def codecarbon_calls(every_s: float, seconds: float, windows: int) -> dict[str, Any]:
    tracker = start_tracker(every_s)
    found = calls_over_time(seconds)
    tracker.stop()
    return found


def start_tracker(every_s: float) -> Any:
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="DEU", measure_power_secs=every_s, save_to_file=False, log_level="critical"
    )
    tracker.start()
    time.sleep(CALM_S)
    return tracker


def zeus(seconds: float, windows: int) -> dict[str, Any]:
    """A monitor of all GPUs: it reads at both ends of windows, and nothing in between."""
    monitor = start_zeus()
    found = in_windows(
        windows,
        lambda: monitor.begin_window("window", sync_execution=False),
        lambda _: monitor.end_window("window", sync_execution=False),
    )
    (cost,) = over_time([psutil.Process()], min(seconds, CALM_S))
    return found | cost


def zeus_calls(seconds: float, windows: int) -> dict[str, Any]:
    monitor, before = start_zeus(), calls()
    in_windows(
        windows,
        lambda: monitor.begin_window("window", sync_execution=False),
        lambda _: monitor.end_window("window", sync_execution=False),
    )
    return {"calls_per_window": (calls() - before) / windows, "calls_per_s": 0.0}


def start_zeus() -> Any:
    from zeus.monitor import ZeusMonitor

    return ZeusMonitor(gpu_indices=list(range(GPUS)), cpu_indices=[])


def calls_over_time(seconds: float) -> dict[str, float]:
    """What the stand-in was asked for per second."""
    time.sleep(CALM_S)
    before, since_s = calls(), time.monotonic()
    time.sleep(seconds)
    return {"calls_per_s": (calls() - before) / (time.monotonic() - since_s)}


def calls() -> int:
    """Calls so far about a device: the lines of the stand-in's log."""
    scenario = Path(os.environ["NVML_SCENARIO"]).read_text().splitlines()
    (log,) = (line.split()[1] for line in scenario if line.startswith("log "))
    with Path(log).open("rb") as lines:
        return sum(1 for _ in lines)


PARTS: Final[dict[str, Callable[[float, int], dict[str, Any]]]] = {
    "energyaware": ray_actor,
    "energyaware, service": service_windows,
    "energyaware, calls": service_calls,
    "CodeCarbon, 15 s": partial(codecarbon, 15.0),
    "CodeCarbon, 1 s": partial(codecarbon, 1.0),
    "CodeCarbon, 15 s, calls": partial(codecarbon_calls, 15.0),
    "CodeCarbon, 1 s, calls": partial(codecarbon_calls, 1.0),
    "Zeus": zeus,
    "Zeus, calls": zeus_calls,
}


def main() -> None:
    part, seconds, windows = sys.argv[1:]
    print(json.dumps(PARTS[part](float(seconds), int(windows))), flush=True)


if __name__ == "__main__":
    main()

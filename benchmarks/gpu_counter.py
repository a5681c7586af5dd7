"""How far a GPU's energy counter and its sampled power agree, on a real GPU: idle, with a CUDA context, and loaded.

The counter, and the integrals of the moment's power (`NVML_FI_DEV_POWER_INSTANT`) and of `nvmlDeviceGetPowerUsage`, are
taken over the same windows, sampled by the product's own sampler. Windows begin and end when the counter moves, so that
none is held against another for being read late. The load is large bf16 matrix products. No clock and no limit is
touched.

    .venv/bin/python benchmarks/gpu_counter.py
    .venv/bin/python benchmarks/gpu_counter.py --dry-run    # wherever there is NVML: windows of 0.3 s, load on the CPU
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pynvml
from environment import provenance, spread
from rich.console import Console
from rich.table import Table

from energyaware.energy.gpu_power import BEYOND_ANY_W, PowerMeter, PowerSampler
from energyaware.energy.gpu_step import find_steps_s

STILL_S: Final = 1.0
"""A counter that has not moved for so long stands still."""

POLL_S: Final = 0.002

READINGS: Final = ("power instant", "power usage")


class Gpu:
    """One GPU through NVML.

    Args:
        name: NVML's index or a UUID.

    Raises:
        NVMLError: there is no such GPU, or no driver.
    """

    def __init__(self, name: str) -> None:
        pynvml.nvmlInit()
        by_index = name.isdecimal()
        self.handle = (
            pynvml.nvmlDeviceGetHandleByIndex(int(name)) if by_index else pynvml.nvmlDeviceGetHandleByUUID(name)
        )
        self.uuid = pynvml.nvmlDeviceGetUUID(self.handle)
        self.model = pynvml.nvmlDeviceGetName(self.handle)
        self.driver = pynvml.nvmlSystemGetDriverVersion()

    def counter_j(self) -> float | None:
        """Joules since the driver was loaded; None where there is no counter."""
        try:
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) * 1e-3
        except pynvml.NVMLError:
            return None

    def instant_w(self) -> float:
        (field,) = pynvml.nvmlDeviceGetFieldValues(self.handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
        if field.nvmlReturn:
            raise pynvml.NVMLError(field.nvmlReturn)
        return field.value.uiVal * 1e-3

    def usage_w(self) -> float:
        return pynvml.nvmlDeviceGetPowerUsage(self.handle) * 1e-3


@contextmanager
def sampled(gpu: Gpu) -> Iterator[dict[str, PowerMeter]]:
    """Both readings of power, sampled while the block runs."""
    reads = zip(READINGS, (gpu.instant_w, gpu.usage_w), strict=True)
    meters = {name: PowerMeter(read_w, BEYOND_ANY_W, pynvml.NVMLError) for name, read_w in reads}
    sampler = PowerSampler(list(meters.values()))
    try:
        yield meters
    finally:
        sampler.close()


def at_its_movement(gpu: Gpu) -> float | None:
    """The counter, right after it has moved; as it is where it stands still."""
    first_j, deadline_s = gpu.counter_j(), time.monotonic() + STILL_S
    while first_j is not None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        if (now_j := gpu.counter_j()) != first_j:
            return now_j
    return first_j


def look(gpu: Gpu, meters: dict[str, PowerMeter]) -> dict[str, Any]:
    """Everything at one moment."""
    counter_j = at_its_movement(gpu)
    samples = {name: meter.sample() for name, meter in meters.items()}
    return {"at_s": time.monotonic(), "counter": counter_j, "samples": samples}


def window(gpu: Gpu, meters: dict[str, PowerMeter], seconds: float) -> dict[str, float | None]:
    """Joules by each reading over so many seconds; None where one failed meanwhile."""
    before = look(gpu, meters)
    time.sleep(seconds)
    after = look(gpu, meters)
    counted = None if None in {before["counter"], after["counter"]} else after["counter"] - before["counter"]
    found: dict[str, float | None] = {"duration_s": after["at_s"] - before["at_s"], "counter": counted}
    for name in READINGS:
        first, last = before["samples"][name], after["samples"][name]
        known = first.gaps == last.gaps and first.energy_j is not None and last.energy_j is not None
        found[name] = last.energy_j - first.energy_j if known else None
    return found


def steps(gpu: Gpu, seconds: float) -> dict[str, Any]:
    """The counter's steps: as the product finds them, and watched longer and closer."""
    (found_s,) = find_steps_s(lambda: [gpu.counter_j()])
    moved_s, last_j, end_s = [], gpu.counter_j(), time.monotonic() + seconds
    while time.monotonic() < end_s:
        if (now_j := gpu.counter_j()) != last_j:
            moved_s.append(time.monotonic())
            last_j = now_j
        time.sleep(POLL_S / 2)
    between_s = [after - before for before, after in pairwise(moved_s)]
    return {"product_s": found_s, "watched_s": spread(between_s, 4) if between_s else None}


@contextmanager
def context(device: str) -> Iterator[None]:
    """A CUDA context that does nothing."""
    import torch

    held = torch.zeros(1, device=device)
    yield
    del held


@contextmanager
def load(device: str, width: int) -> Iterator[None]:
    """Matrix products one after another, by a thread."""
    import torch

    left, stop = torch.randn(width, width, device=device).to(torch.bfloat16), threading.Event()

    def multiply() -> None:
        while not stop.is_set():
            for _ in range(20):
                left @ left
            if device == "cuda":
                torch.cuda.synchronize()

    thread = threading.Thread(target=multiply)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def states(device: str, width: int) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    """What the GPU does, in this order: a context, once there, stays until the process ends."""
    return {
        "idle": nullcontext,
        "idle with a context": lambda: context(device),
        "loaded": lambda: load(device, width),
    }


def show(report: dict[str, Any], path: Path) -> None:
    table = Table("", "window", "counter", *(f"{name} / counter" for name in READINGS))
    for row in report["rows"]:
        power_w = row["counter_w"]
        ratios = [row[f"{name} / counter"] for name in READINGS]
        table.add_row(
            row["state"],
            f"{row['seconds']:g} s",
            "unknown" if power_w is None else f"{power_w['median']:.1f} W",
            *("unknown" if r is None else f"{r['median']:.3f} ({r['min']:.3f} to {r['max']:.3f})" for r in ratios),
        )
    console = Console()
    console.print(f"{report['gpu']['model']}, driver {report['gpu']['driver']}: {report['steps']}", highlight=False)
    console.print(table)
    console.print(f"written to {path}{', a dry run' if report['dry_run'] else ''}", highlight=False)


def summary(state: str, seconds: float, windows: list[dict[str, Any]]) -> dict[str, Any]:
    counted = [w for w in windows if w["counter"]]
    row: dict[str, Any] = {"state": state, "seconds": seconds, "windows": windows}
    row["counter_w"] = spread([w["counter"] / w["duration_s"] for w in counted], 2) if counted else None
    for name in READINGS:
        ratios = [w[name] / w["counter"] for w in counted if w[name] is not None]
        row[f"{name} / counter"] = spread(ratios, 4) if ratios else None
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="A GPU's energy counter against its sampled power.")
    parser.add_argument("--gpu", default="0", help="NVML's index, or a UUID")
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 60.0], help="lengths of the windows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=8192, help="of the matrices")
    parser.add_argument("--dry-run", action="store_true", help="short windows, and no work on the GPU")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    if chosen.dry_run:
        chosen.seconds, chosen.repeats, chosen.width = [0.3], 1, 64

    gpu = Gpu(chosen.gpu)
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu.uuid  # before torch looks
    stepped = steps(gpu, 0.5 if chosen.dry_run else 10.0)
    rows = []
    with sampled(gpu) as meters:
        for state, hold in states("cpu" if chosen.dry_run else "cuda", chosen.width).items():
            with hold():
                time.sleep(0 if chosen.dry_run else 10)  # power is to settle, and its averages with it
                for seconds in chosen.seconds:
                    windows = [window(gpu, meters, seconds) for _ in range(chosen.repeats)]
                    rows.append(summary(state, seconds, windows))
    report = provenance("gpu_counter", "torch") | {
        "dry_run": chosen.dry_run,
        "gpu": {"uuid": gpu.uuid, "model": gpu.model, "driver": gpu.driver},
        "steps": stepped,
        "rows": rows,
        "idle_context_w": difference(rows, "idle with a context", "idle"),
    }
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"gpu_counter-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    show(report, path)


def difference(rows: list[dict[str, Any]], more: str, less: str) -> float | None:
    """Watts between two states, of the longest windows; None where there is no counter."""
    longest_s = max(row["seconds"] for row in rows)
    medians = [
        statistics.median(row["counter_w"]["all"])
        for state in (more, less)
        for row in rows
        if row["state"] == state and row["seconds"] == longest_s and row["counter_w"]
    ]
    return medians[0] - medians[1] if len(medians) == 2 else None


if __name__ == "__main__":
    main()

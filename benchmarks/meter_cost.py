"""What a meter takes: of a core, of memory, and of the time of those who open windows, beside CodeCarbon and Zeus.

A node with eight simulated GPUs, all held by one attempt with a window open; our meter is the product's Ray actor at
its default settings. What takes a share of a core is measured over a minute, for all at once; windows are opened and
closed in turns after that; and calls into NVML are counted in a third part, for keeping the stand-in's log takes time.

    .venv/bin/pip install --target /tmp/peers zeus==0.16.0
    .venv/bin/python benchmarks/meter_cost.py --peers /tmp/peers
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from environment import provenance, spread
from meter_cost_parts import GPUS
from rich.console import Console
from rich.table import Table
from standin import Machine

MOST_CPU: Final = 0.01
"""Of a core."""

MOST_USS_MIB: Final = 150.0
MOST_MS: Final = 10.0

AT_ONCE: Final = ("energyaware", "CodeCarbon, 15 s", "CodeCarbon, 1 s")
IN_TURNS: Final = ("energyaware, service", "Zeus")
COUNTED: Final = ("energyaware, calls", "CodeCarbon, 15 s, calls", "CodeCarbon, 1 s, calls", "Zeus, calls")


def run_at_once(
    parts: Sequence[str], seconds: float, windows: int, peers: Path | None, *, log: bool = False
) -> dict[str, Any]:
    """What each part found, each on a machine of its own."""
    with ExitStack() as stack:
        processes = {}
        for part in parts:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cost-")))
            machine = Machine(folder)
            lines = [f"gpu GPU-{index}0000000 {300 + index}" for index in range(GPUS)]
            machine.draw([*lines, f"log {folder / 'calls'}"] if log else lines)
            (folder / "calls").touch()
            script = Path(__file__).with_name("meter_cost_parts.py")
            process = subprocess.Popen(
                [sys.executable, script, part, str(seconds), str(windows)],
                env=machine.environment(packages=peers if part.startswith("Zeus") else None),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes[part] = stack.enter_context(process)
        answers = {part: process.communicate() for part, process in processes.items()}
    for part, process in processes.items():
        if process.returncode:
            raise SystemExit(f"{part} failed:\n{answers[part][1]}")
    return {part: json.loads(answer.splitlines()[-1]) for part, (answer, _) in answers.items()}


def milliseconds(values: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "p95": statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0],
        "max": max(values),
    }


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The parts of each tool together, latencies by their quantiles."""
    ours = found["energyaware"]
    bare, ledger = ours.pop("bare"), ours.pop("ledger")
    tools = {"energyaware": ours, "a bare actor": bare} | {
        name: found[name] for name in ("CodeCarbon, 15 s", "CodeCarbon, 1 s", "Zeus") if name in found
    }
    tools["energyaware"]["service"] = found["energyaware, service"]
    for name, tool in tools.items():
        tool.update(found.get(f"{name}, calls", {}))
        for times in (tool, tool.get("service", {})):
            times.update({key: milliseconds(times[key]) for key in ("open_ms", "close_ms") if key in times})
    ledger["write_ms"] = spread(ledger["write_ms"])
    return {"tools": tools, "ledger": ledger}


def show(report: dict[str, Any], path: Path) -> None:
    table = Table("", "CPU", "RSS", "USS", "NVML calls/s", "a window", "open", "close", title="median (p95, max)")
    for name, tool in report["tools"].items():
        rate, each = tool.get("calls_per_s"), tool.get("calls_per_window")
        table.add_row(
            name,
            f"{100 * tool['cpu']:.2f} %",
            f"{tool['rss_mib']:.0f} MiB",
            f"{tool['uss_mib']:.0f} MiB",
            "" if rate is None else f"{rate:.0f}",
            "" if each is None else f"{each:.0f}",
            *(latency(tool.get(key)) for key in ("open_ms", "close_ms")),
        )
    service = report["tools"]["energyaware"]["service"]
    table.add_row("its service", "", "", "", "", "", latency(service["open_ms"]), latency(service["close_ms"]))
    console = Console()
    console.print(table)
    ledger = report["ledger"]
    console.print(
        f"ledger of {ledger['windows']} windows: {ledger['kib']:.0f} KiB, written in "
        f"{ledger['write_ms']['median']:.1f} ms; written to {path}",
        highlight=False,
    )


def latency(times: dict[str, float] | None) -> str:
    return "" if times is None else f"{times['median']:.2f} ({times['p95']:.2f}, {times['max']:.2f}) ms"


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a node's meter.")
    parser.add_argument("--peers", type=Path, help="folder of `pip install --target` that holds zeus")
    parser.add_argument("--seconds", type=float, default=60.0, help="over which CPU time is measured")
    parser.add_argument("--counted", type=float, default=30.0, help="seconds over which calls are counted")
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()

    load_before = os.getloadavg()
    with_peers = [part for part in (*IN_TURNS, *COUNTED) if chosen.peers or not part.startswith("Zeus")]
    found = run_at_once(AT_ONCE, chosen.seconds, chosen.windows, chosen.peers)
    for part in with_peers:
        if part in IN_TURNS:
            found |= run_at_once([part], chosen.seconds, chosen.windows, chosen.peers)
    counted = [part for part in with_peers if part in COUNTED]
    found |= run_at_once(counted, chosen.counted, max(1, chosen.windows // 10), chosen.peers, log=True)
    report = provenance("meter_cost", "codecarbon", "ray") | summary(found)
    report["machine"] |= {"load_before": load_before}
    if chosen.peers:
        (zeus,) = distributions(name="zeus", path=[str(chosen.peers)])
        report["versions"] |= {"zeus": zeus.version}
    ours = report["tools"]["energyaware"]
    report["reached"] = {
        "cpu_under_1_percent": ours["cpu"] < MOST_CPU,
        "uss_under_150_mib": ours["uss_mib"] < MOST_USS_MIB,
        "rss_under_150_mib": ours["rss_mib"] < MOST_USS_MIB,
        "window_median_under_10_ms": max(ours[key]["median"] for key in ("open_ms", "close_ms")) < MOST_MS,
        "window_p95_under_10_ms": max(ours[key]["p95"] for key in ("open_ms", "close_ms")) < MOST_MS,
    }
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"meter_cost-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    show(report, path)


if __name__ == "__main__":
    main()

"""Whether a meter's joules are the joules: ours beside CodeCarbon and Zeus, against what simulated GPUs drew in truth.

All run at once, each in a process of its own, on the same stand-in for the NVIDIA driver, and measure the same windows.
Work is what lies between the return of the call that opens a window and the call that closes it; the truth is what the
GPU drew meanwhile, by the formula of its power. The windows' beginnings, the phase of the counter's steps, and what a
window is longer than a multiple of those (a reading that is late by as much at both ends would seem exact) are random,
from a fixed seed.

    .venv/bin/pip install --target /tmp/peers zeus==0.16.0
    .venv/bin/python benchmarks/meter_accuracy.py --peers /tmp/peers
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from environment import provenance
from meter_cases import CASES, Case
from meter_tools import TOOLS, Figure
from rich.console import Console
from rich.table import Table
from standin import Machine

STEP_S: Final = 0.1
"""Of the simulated counters, as of real ones."""


def start(machine: Machine, tool: str, case: Case, peers: Path | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("meter_tools.py"), tool, json.dumps(asdict(case.job))],
        env=machine.environment(case.job.visible, peers if tool == "Zeus" else None),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def figures_of(
    tools: Sequence[str], case: Case, peers: Path | None, warm_up_s: float, draw: random.Random
) -> dict[str, list[dict[str, Any]]]:
    """By tool, its figures of the case's windows, each with what was drawn in truth."""
    windows, at_s = [], warm_up_s
    for _ in range(case.repeats):
        end_s = at_s + case.seconds + draw.uniform(0, STEP_S)
        windows.append((at_s, end_s))
        at_s = end_s + draw.uniform(0.6, 0.8)
    scenario = case.machine(windows)
    phase_s = draw.uniform(0, 0.9 * STEP_S)
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder, ExitStack() as stack:
        machine = Machine(Path(folder))
        processes = {tool: stack.enter_context(start(machine, tool, case, peers)) for tool in tools}
        for tool, process in processes.items():
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{tool} did not start")
        start_s = machine.draw([*scenario.lines(), f"step {STEP_S}", f"phase {phase_s}"])
        told = json.dumps([[start_s + begin_s, start_s + end_s] for begin_s, end_s in windows])
        for process in processes.values():
            process.stdin.write(told + "\n")
            process.stdin.flush()
        answers = {tool: process.communicate()[0] for tool, process in processes.items()}
    for tool, process in processes.items():
        if process.returncode:
            raise SystemExit(f"{tool} failed on {case.name!r}: {answers[tool] or 'see what it writes when run alone'}")
    figures = {tool: [Figure(**figure) for figure in json.loads(lines)] for tool, lines in answers.items()}
    return {
        tool: [
            asdict(figure) | {"true_j": scenario.energy_j(case.index, figure.began_s, figure.ended_s, start_s)}
            for figure in some
        ]
        for tool, some in figures.items()
    }


def summary(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Error in percent over the windows with a figure, and what was said."""
    errors = [100 * (f["energy_j"] / f["true_j"] - 1) for f in figures if f["energy_j"] is not None]
    return {
        "windows": len(figures),
        "figures": len(errors),
        "median_error_percent": statistics.median(errors) if errors else None,
        "median_abs_error_percent": statistics.median(map(abs, errors)) if errors else None,
        "worst_abs_error_percent": max(map(abs, errors)) if errors else None,
        "says": sorted({f["says"] for f in figures if f["says"]}),
        "begin_ms": statistics.median(f["begin_ms"] for f in figures),
        "end_ms": statistics.median(f["end_ms"] for f in figures),
        "all": figures,
    }


def cell(summed: dict[str, Any], *, knowable: bool) -> str:
    """As a table has it."""
    if not summed["figures"]:
        return "none: " + "; ".join(summed["says"] or ["without a word"])
    text = f"{summed['median_abs_error_percent']:.2f} % ({summed['worst_abs_error_percent']:.2f} %)"
    if not knowable:
        first = next(f for f in summed["all"] if f["energy_j"] is not None)
        text = f"{first['energy_j']:.0f} J, where {first['true_j']:.0f} J were drawn"
    return "; ".join([text, *summed["says"]])


def show(rows: list[dict[str, Any]], path: Path) -> None:
    console = Console()
    for knowable, title in ((True, "median (worst) error without its sign"), (False, "what cannot be known")):
        of_kind = [row for row in rows if row["knowable"] == knowable]
        if not of_kind:
            continue
        table = Table("case", *of_kind[0]["tools"], title=title, show_lines=True)
        for row in of_kind:
            table.add_row(row["case"], *(cell(tool, knowable=knowable) for tool in row["tools"].values()))
        console.print(table)
    console.print(f"written to {path}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of meters on GPUs whose joules are known.")
    parser.add_argument("--peers", type=Path, help="folder of `pip install --target` that holds zeus")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seconds", type=float, help="length of all windows, in place of each case's own")
    parser.add_argument("--repeats", type=int, help="number of windows, in place of each case's own")
    parser.add_argument("--warm-up", type=float, default=6.0, help="seconds for the tools to start in")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()

    tools = [tool for tool in TOOLS if tool != "Zeus" or chosen.peers]
    load_before = os.getloadavg()
    rows = []
    for name in chosen.cases:
        case = CASES[name]
        case = replace(case, seconds=chosen.seconds or case.seconds, repeats=chosen.repeats or case.repeats)
        draw = random.Random(f"{chosen.seed} {name}")
        figures = figures_of(tools, case, chosen.peers, chosen.warm_up, draw)
        summed = {tool: summary(some) for tool, some in figures.items()}
        rows.append({"name": name, "case": case.name, "knowable": case.knowable, "tools": summed})
        print(name, {tool: cell(one, knowable=case.knowable) for tool, one in summed.items()}, file=sys.stderr)
    report = provenance("meter_accuracy", "codecarbon") | {"seed": chosen.seed, "rows": rows}
    report["machine"] |= {"load_before": load_before}
    if chosen.peers:
        (zeus,) = distributions(name="zeus", path=[str(chosen.peers)])
        report["versions"] |= {"zeus": zeus.version}
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"meter_accuracy-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    show(rows, path)


if __name__ == "__main__":
    main()

"""How long `energyaware report` and `energyaware rank` take on 1,000 configurations of 3 seeds, as whole processes.

The folder is synthetic (`ranking_sets.py`): 4 models in 5 precisions with 50 prunings. No peer: nothing else writes
such a page.

    .venv/bin/python benchmarks/report_speed.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from environment import provenance, spread
from ranking_sets import Size, write_set

COMMAND: Final = str(Path(sys.executable).with_name("energyaware"))
SEEDS: Final = 3
WANTED: Final = {"report": "under 10 s and 5 MiB", "rank": ""}


def took_s(*arguments: str) -> float:
    """Seconds of a command."""
    began_s = time.perf_counter()
    subprocess.run([COMMAND, *arguments], capture_output=True, check=True)
    return time.perf_counter() - began_s


def main() -> None:
    """Write the folder, measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prunings", type=int, default=50, help="each makes 20 configurations")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    size = Size(2_600 * chosen.prunings, 4, 5, chosen.prunings, SEEDS, nodes=1, gpus=4)
    with tempfile.TemporaryDirectory() as temporary:
        folder, page = Path(temporary) / "synthetic", Path(temporary) / "report.html"
        rows = write_set(folder, size)
        commands = {"report": ("report", str(folder), "-o", str(page)), "rank": ("rank", str(folder))}
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(chosen.runs + 1):
            for name, arguments in commands.items():
                seconds = took_s(*arguments)
                if turn:  # the first fills the system's cache
                    taken[name].append(seconds)
        size_mib = page.stat().st_size / 2**20
    report = provenance("report_speed", "polars", "altair", "vl-convert-python", "statsmodels") | {
        "data": "synthetic: every figure in it is made up",
        "configurations": size.models * size.precisions * size.prunings,
        "seeds": SEEDS,
        "energy_rows": rows,
        "report_mib": round(size_mib, 2),
        "s": {name: spread(seconds) for name, seconds in taken.items()},
    }
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"report_speed-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['configurations']:,} configurations, {SEEDS} seeds, {rows:,} rows of energy")
    for name, seconds in report["s"].items():
        beside = f", {size_mib:.1f} MiB" if name == "report" else ""
        wanted = f"; wanted {WANTED[name]}" if WANTED[name] else ""
        print(f"{name}: {seconds['median']:.2f} s ({seconds['min']:.2f} to {seconds['max']:.2f}){beside}{wanted}")


if __name__ == "__main__":
    main()

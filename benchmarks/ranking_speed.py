"""How long the ranking of a results folder takes, and how much memory, beside the same in pandas and in DuckDB's SQL.

The folders are synthetic (`ranking_sets.py`): as many rows of energy as asked for, in the files that `energyaware
compact` would leave. Every figure is of a fresh process, the tools take turns in shuffled order, and all have the
files in the system's cache and the threads of the machine. Their rows must agree to 1e-9, or nothing is reported.

A row of energy may lie in several files, of which the last counts: `energyaware` sees to that in every figure, and that
each page of each file can be read. The peers see to doubled rows too or, as `trusting`, do not.

    .venv/bin/python benchmarks/ranking_speed.py
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from environment import provenance, spread

TOOLS: Final = ["energyaware", "DuckDB", "DuckDB, trusting", "pandas", "pandas, trusting"]
KEY: Final = ["model", "precision", "pruning"]
FIGURES: Final = [
    *["score", "phi_minmax", "phi_ratio", "rho", "energy_j_per_request", "finetune_energy_j", "seconds_per_request"],
    "edp_js",
]
SAID: Final = ["rank", "energy_kind", "made_of", "energy_from", "seeds"]
AGREE: Final = 1e-9

Rows = list[dict[str, Any]]


def with_energyaware() -> Callable[[Path], Rows]:
    """Our ranking, imported."""
    from analysis import load

    def rank(folder: Path) -> Rows:
        rows = load(folder).ranking(allow_mixed=True).collect()
        return [row | {"seeds": len(row["seeds"])} for row in rows.select(*KEY, *FIGURES, *SAID).iter_rows(named=True)]

    return rank


def with_peer(tool: str) -> Callable[[Path], Rows]:
    """A peer's ranking, imported."""
    name, _, trusting = tool.partition(", ")
    if name == "pandas":
        import pandas as pd
        import pyarrow.parquet as pq
        from ranking_pandas import with_pandas as rank

        assert pd, pq
    else:
        import duckdb
        from ranking_duckdb import with_duckdb as rank

        assert duckdb
    return lambda folder: rank(folder, once=not trusting)


def one(tool: str, folder: Path) -> None:
    """Rank once and print what it took: seconds of imports and of reading and ranking, peak memory, and the rows."""
    began_s = time.perf_counter()
    rank = with_energyaware() if tool == "energyaware" else with_peer(tool)
    imported_s = time.perf_counter()
    rows = rank(folder)
    done_s = time.perf_counter()
    print(
        json.dumps({"import_s": imported_s - began_s, "s": done_s - imported_s, "peak_mib": peak_mib(), "rows": rows})
    )


def peak_mib() -> float:
    """Of this process since it was started, whatever the one that started it had."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def in_a_process(*arguments: str) -> str:
    """What this script prints when it is run anew."""
    return subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True).stdout


def check(tool: str, rows: Rows, reference: Rows) -> None:
    """Stop unless the rows are the reference's."""
    ours, theirs = ({tuple(row[name] for name in KEY): row for row in each} for each in (reference, rows))
    if ours.keys() != theirs.keys() or len(theirs) != len(rows):
        raise SystemExit(f"{tool} ranks other configurations")
    for key, row in ours.items():
        other = theirs[key]
        different = [name for name in SAID if other[name] != row[name]]
        different += [
            name for name in FIGURES if not math.isclose(other[name], row[name], rel_tol=AGREE, abs_tol=AGREE)
        ]
        if different:
            raise SystemExit(f"{tool} differs for {key}: {[(name, other[name], row[name]) for name in different]}")


def measure(folder: Path, runs: int, tools: list[str]) -> dict[str, Any]:
    """All tools in turns, after one turn that is not counted."""
    taken: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools}
    reference: Rows = []
    for turn in range(runs + 1):
        for tool in (
            [tools[0], *random.sample(tools[1:], len(tools) - 1)] if not turn else random.sample(tools, len(tools))
        ):
            began_s = time.perf_counter()
            report = json.loads(in_a_process("--one", tool, str(folder)))
            report["process_s"] = time.perf_counter() - began_s
            rows = report.pop("rows")
            reference = reference or rows
            check(tool, rows, reference)
            if turn:
                taken[tool].append(report)
    return {
        "configurations": len(reference),
        "tools": {
            tool: {name: spread([report[name] for report in reports]) for name in reports[0]}
            for tool, reports in taken.items()
        },
    }


def table(sizes: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| energy rows | tool | load and rank | against energyaware | whole process | peak memory |",
        "|" + "---|" * 6,
    ]
    for size in sizes:
        ours_s = size["tools"]["energyaware"]["s"]["median"]
        for number, (tool, figures) in enumerate(size["tools"].items()):
            seconds, process, peak = figures["s"], figures["process_s"], figures["peak_mib"]
            lines.append(
                f"| {'' if number else format(size['energy_rows'], ',')} | {tool} "
                f"| {seconds['median']:.3f} s ({seconds['min']:.3f} to {seconds['max']:.3f}) "
                f"| {'' if tool == 'energyaware' else format(seconds['median'] / ours_s, '.2f')} "
                f"| {process['median']:.2f} s | {peak['median']:,.0f} MiB |"
            )
    return "\n".join(lines)


def main() -> None:
    """Write the folders, measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 100_000, 10_000_000])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--tools", nargs="+", choices=TOOLS[1:], default=TOOLS[1:], help="the peers")
    parser.add_argument("--folder", type=Path, help="where the folders are written; else in a temporary one")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=2, metavar=("ROWS", "FOLDER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        one(chosen.one[0], Path(chosen.one[1]))
        return
    if chosen.write:
        from ranking_sets import size_of, write_set

        print(write_set(Path(chosen.write[1]), size_of(int(chosen.write[0]))))
        return
    sizes = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as temporary:
        for rows in chosen.rows:
            folder = Path(temporary) / f"synthetic-{rows}"
            written = int(in_a_process("--write", str(rows), str(folder)))
            files = list(folder.rglob("*.parquet"))
            about = {"energy_rows": written, "mib": round(sum(file.stat().st_size for file in files) / 2**20, 1)}
            sizes.append(about | measure(folder, chosen.runs, ["energyaware", *chosen.tools]))
            print(f"{written:,} rows of energy in {len(files)} files, {chosen.runs} runs each", file=sys.stderr)
    report = provenance("ranking_speed", "polars", "pandas", "pyarrow", "duckdb") | {
        "data": "synthetic: every figure in it is made up",
        "runs": chosen.runs,
        "sizes": sizes,
    }
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"ranking_speed-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(table(sizes))


if __name__ == "__main__":
    main()

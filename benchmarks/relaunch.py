"""Seconds from typing `energyaware run` again to the first optimizer step, after the run was killed while it trained.

The quickstart's model and data, one fine-tuning in bf16 on this machine's CPUs. The run is killed by SIGKILL once a
checkpoint is committed; then the same command is timed until rank 0 has taken its first step, which is the one after
the checkpoint's. What is in between: reading the results, starting Ray, reading idle power (5 s by default), forming
the gang with its imports, loading model and checkpoint. There is no peer: Ray Tune's own restore cannot go on inside a
trial of this kind (it restores from what the trial itself has saved, and starts its actors as slowly).

    .venv/bin/python benchmarks/relaunch.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from environment import provenance, spread

from energyaware.checkpoint_store import last_committed
from energyaware.files import open_files
from energyaware.points import FOLDER

SWEEP: Final = """
precisions: [bf16]
prunings: [none]
finetune: {method: lora, epochs: 3, batch_size: 16, lora: {rank: 8}}
resources: {device: cpu}
checkpoints: {every_steps: 10}
"""

COMMAND: Final = str(Path(sys.executable).with_name("energyaware"))
PATIENCE_S: Final = 300.0
POLL_S: Final = 0.02


def start(folder: Path, points: Path) -> subprocess.Popen[bytes]:
    """The run, in a folder of its own, noting its steps."""
    points.mkdir()
    return subprocess.Popen(
        [COMMAND, "run", "s.yaml", "--results", "results"],
        cwd=folder,
        env=os.environ | {FOLDER: str(points)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_step(run: subprocess.Popen[bytes], points: Path, number: int) -> None:
    """Until so many steps are taken."""
    deadline_s = time.monotonic() + PATIENCE_S
    log = points / "log"
    while not log.exists() or log.read_text().count("step ") < number:
        if run.poll() is not None or time.monotonic() > deadline_s:
            raise SystemExit(f"the run ended, or took no {number} steps")
        time.sleep(POLL_S)


def measure(folder: Path) -> dict[str, float]:
    """Kill a run after its first checkpoint, and time the next one."""
    (folder / "s.yaml").write_text(SWEEP)
    run = start(folder, folder / "first")
    wait_for_step(run, folder / "first", 14)
    run.kill()
    run.wait()
    (stage,) = (folder / "results" / "checkpoints").iterdir()
    committed = last_committed(open_files(folder / "results"), stage.name)
    if committed is None:
        raise SystemExit("no checkpoint was committed")
    time.sleep(5)  # for what the killed run had started to be gone: it is not the next one's to wait for
    began_s = time.perf_counter()
    again = start(folder, folder / "second")
    wait_for_step(again, folder / "second", 1)
    took_s = time.perf_counter() - began_s
    again.kill()
    again.wait()
    time.sleep(5)
    return {"first_step_s": took_s, "wasted_steps": 14 - committed["step"]}


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    found = []
    for _ in range(chosen.runs):
        with tempfile.TemporaryDirectory(prefix="relaunch-", ignore_cleanup_errors=True) as folder:
            found.append(measure(Path(folder)))
            print(json.dumps(found[-1]), flush=True)
    report = provenance("relaunch", "ray", "torch", "deepspeed") | {
        name: spread([each[name] for each in found]) for name in found[0]
    }
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"relaunch-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    seconds = report["first_step_s"]
    print(f"first step after {seconds['median']:.1f} s (median; {seconds['min']:.1f} to {seconds['max']:.1f})")


if __name__ == "__main__":
    main()

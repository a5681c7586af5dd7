"""Named points at which a test can hold a process and kill it, or another one: the places where a crash hurts most.

In use nothing happens at a point. Where the environment variable ENERGYAWARE_POINTS names a folder, every point that is
reached is noted in its file `log`, and whoever reaches the point named in its file `hold` for the n-th time waits there
until there is a file `go`. `docs/interruptions.md` has what became of a run that was killed at each of them.
"""

import os
import time
from pathlib import Path
from typing import Final

FOLDER: Final = "ENERGYAWARE_POINTS"
"""Environment variable that names the folder."""

POLL_S: Final = 0.02

POINTS: Final = {
    "lease-taken": "driver: the results are held, nothing is started",
    "plan-written": "driver: what is asked for is recorded",
    "taken-over": "driver: rows of a killed run are written, its ledgers not yet removed",
    "attempt-begun": "stage actor: the meters know the attempt, the ranks do not",
    "step": "rank 0: an optimizer step is taken",
    "checkpoint-writing": "each rank: its part of a checkpoint is written, others' perhaps not",
    "checkpoint-uncommitted": "rank 0: all parts are written, COMMIT is not",
    "checkpoint-committed": "rank 0: COMMIT is written, older checkpoints are still there",
    "checkpoint-pruning": "rank 0: an older checkpoint has lost its COMMIT, not its files",
    "epochs-done": "rank 0: the last epoch is done, no artifact is written",
    "artifact-writing": "rank 0: the artifact's weights are written, its other files are not",
    "artifact-unmoved": "rank 0: the artifact is whole, and not in its place",
    "artifact-moved": "rank 0: the artifact is in its place",
    "measured": "rank 0: an inference is measured, nothing is recorded",
    "energy-written": "stage actor: joules are recorded, nothing else is",
    "attempt-written": "stage actor: all is recorded but the stage's own row",
    "row-unmoved": "stage actor: the stage's row is written, and not in its place",
    "row-moved": "stage actor: the stage's row is in its place",
    "checkpoints-removing": "stage actor: the finished stage's last checkpoint has lost its COMMIT, not its files",
    "ledger-writing": "meter: the ledger is written, and not in its place",
    "compact-unmoved": "compaction: merged rows are written, and not in their place",
    "compact-moved": "compaction: merged rows are in their place, and so are the files they were merged from",
    "compact-removing": "compaction: some of those files are removed",
}
"""What has just happened at each point, and to whom."""


def reached(point: str) -> None:
    """Say that this process is at a point; a test may hold it there."""
    if folder := os.environ.get(FOLDER):
        _take_note(Path(folder), point)


def _take_note(folder: Path, point: str) -> None:
    if point not in POINTS:
        raise KeyError(point)
    with (folder / "log").open("a") as log:
        log.write(f"{point} {os.getpid()}\n")
    wanted, _, number = (folder / "hold").read_text().partition(" ") if (folder / "hold").exists() else ("", "", "")
    if wanted.strip() == point and _count(folder) == int(number or 1):
        (folder / "held").write_text(str(os.getpid()))
        while not (folder / "go").exists():
            time.sleep(POLL_S)


def _count(folder: Path) -> int:
    """How often the point has been reached by now, by whichever process."""
    number = 1
    while True:
        try:
            (folder / f"reached-{number}").touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return number

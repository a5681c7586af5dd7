"""Watching a sweep: what runs, until nothing does."""

import io
import os
import pty
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from analysis import load, status
from analysis.status import as_table
from analysis.watch import watch
from tests.analysis.builders import START, Lab, tried, window

ROOT = Path(__file__).parents[2]

WATCH = """
import sys
from rich.console import Console
from analysis import load, status
from analysis.watch import watch
watch(lambda: status(load(sys.argv[1])), Console(width=120), seconds=0.05)
print("ended")
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A fine-tuning that is at work, and an inference that waits for it."""
    lab = Lab(tmp_path / "results")
    lab.finetune("ft", run=False)
    lab.inference("a", run=False)
    energy = [
        window(stage_id="ft", attempt=2, window="other", energy_j=1.0),
        *(
            window(
                stage_id="ft", attempt=2, window="train", energy_j=10.0, epoch=epoch, from_step=step,
                started_at=START + timedelta(seconds=step),
            )
            for epoch, step in [(1, 20), (1, 30), (2, 40)]
        ),
    ]  # fmt: skip
    lab.ledger(tried("ft", 2, kind="finetune"), energy=energy, heartbeat_s=1000.0)
    for step, committed in [(30, True), (40, False)]:
        folder = lab.folder / "checkpoints" / "ft" / f"{step:08d}"
        folder.mkdir(parents=True)
        if committed:
            (folder / "COMMIT").write_text("{}")
    return lab


def printed(lab: Lab) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(as_table(status(lab.results())))
    return console.file.getvalue()


def test_an_attempt_at_work_is_shown_with_how_far_it_is(lab):
    (row,) = status(lab.results()).running
    assert (row.stage_id, row.attempt, row.window, row.epoch, row.step) == ("ft", 2, "train", 2, 40)
    assert (row.energy_j, row.checkpoint_step) == (31.0, 30)
    line = (
        "running finetune ft (bf16, none), attempt 2: train, epoch 2, from step 40, 31 J so far, checkpoint at step 30"
    )
    assert line in printed(lab)
    lab.lease()
    assert "held by ann@node1, process 123, since 2026-01-01 00:00 UTC" in printed(lab)


def test_what_is_not_known_of_an_attempt_is_left_out(lab):
    lab.ledger(tried("a"), node="n2", heartbeat_s=1000.0)
    assert "running inference a (bf16, none), attempt 1: starting, ? J so far\n" in printed(lab)


def watched(lab: Lab, *, terminal: bool = False, patience_s: float = 0.2) -> str:
    console = Console(width=120, file=io.StringIO(), force_terminal=terminal)
    watch(lambda: status(load(lab.folder)), console, seconds=0.02, patience_s=patience_s)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_ends_when_nothing_is_running_and_nothing_is_left(lab, terminal):
    (lab.folder / "ledger" / "r1-n1.json").unlink()
    lab.finetune("ft", energy_j=100.0)
    lab.inference("a")
    lab.results()
    text = watched(lab, terminal=terminal, patience_s=1000.0)
    assert text.endswith("nothing is running and nothing is left\n")
    assert "100 J useful" in text or "110 J useful" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_ends_when_no_run_holds_the_results_for_a_while(lab, terminal):
    (lab.folder / "ledger" / "r1-n1.json").unlink()
    lab.results()
    text = watched(lab, terminal=terminal)
    assert text.endswith("no run is at work on these results: energyaware resume goes on with them\n")


def test_where_there_is_no_terminal_each_change_is_one_line(lab):
    lab.results()
    before = load(lab.folder)
    lab.finetune("ft", energy_j=100.0, attempt=2)
    lab.inference("a", energy=1.0)
    lab.lease(released=True)
    (lab.folder / "ledger" / "r1-n1.json").unlink()
    readings = iter([status(before)] * 3)
    console = Console(width=40, file=io.StringIO())
    watch(lambda: next(readings, None) or status(load(lab.folder)), console, seconds=0.001)
    assert console.file.getvalue().splitlines() == [
        "0 of 2 stages finished, 1 running, 1 left; 0 J useful, 0 J lost",
        "2 of 2 stages finished, 0 running, 0 left; 110 J useful, 0 J lost",
        "nothing is running and nothing is left",
    ]


def test_what_failed_is_in_the_line(lab):
    (lab.folder / "ledger" / "r1-n1.json").unlink()
    lab.attempt("ft", "oom", reason="no memory")
    lab.results()
    assert watched(lab).startswith(
        "0 of 2 stages finished, 0 running, 1 oom, 1 blocked, 0 left; 0 J useful, 5 J lost\n"
    )


def test_a_run_that_holds_the_results_is_watched_even_between_two_stages(lab):
    (lab.folder / "ledger" / "r1-n1.json").unlink()
    lab.lease()
    lab.results()
    seen = threading.Event()
    count = 0

    def read():
        nonlocal count
        count += 1
        if count == 30:
            seen.set()
            lab.lease(released=True)
        return status(load(lab.folder))

    watch(read, Console(file=io.StringIO()), seconds=0.001, patience_s=0.01)
    assert seen.is_set()


@pytest.mark.parametrize("terminal", [True, False])
def test_control_c_ends_it_quietly(lab, terminal):
    lab.results()
    ours, theirs = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-c", WATCH, str(lab.folder)]
    environment = os.environ | {"TERM": "xterm"}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        text = b""
        while b"1 running" not in text and b"running finetune" not in text:
            text += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        while b"ended" not in text:
            text += os.read(ours, 4096)
        assert (process.wait(), process.stderr.read()) == (0, "")
    os.close(ours)
    os.close(theirs)

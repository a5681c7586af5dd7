"""Windows over a gang: what is inside them, in which order, and that they close."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from energyaware.energy.base import NullMeter, WindowName
from energyaware.energy.windows import GangMeter

SLOW_S = 1.5


@dataclass
class Recorder:
    """A node's meter in this process that writes down what happens when."""

    events: list[tuple[str, object]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def open(self, name: WindowName, epoch: int | None, repeat: int | None, from_step: int | None) -> int:
        self.note("open", (name, epoch, repeat, from_step))
        return len(self.events)

    def close(self, token: int, requests: int | None) -> None:
        self.note("close", (token, requests))

    def note(self, what: str, value: object = None) -> None:
        self.events.append((what, value))
        self.times.append(time.monotonic())


def test_a_window_opens_before_the_block_and_closes_after_it():
    node = Recorder()
    meter = GangMeter(node)
    with meter.window("train", epoch=3, from_step=40):
        node.note("work")
    with meter.window("decode", repeat=2) as window:
        node.note("work")
        window.requests = 32

    assert node.events == [
        ("open", ("train", 3, None, 40)), ("work", None), ("close", (1, None)),
        ("open", ("decode", None, 2, None)), ("work", None), ("close", (4, 32)),
    ]  # fmt: skip


def test_a_window_closes_when_the_block_raises_and_the_error_goes_on():
    node = Recorder()

    def fail():
        with GangMeter(node).window("prefill"):
            node.note("work")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [event for event, _ in node.events] == ["open", "work", "close"]


@pytest.mark.parametrize("meter", [GangMeter(None), NullMeter()])
def test_a_rank_that_does_not_lead_its_node_runs_the_block_and_measures_nothing(meter):
    ran = []
    with meter.window("train", epoch=1):
        ran.append(True)
    assert ran == [True]


def test_the_slow_ranks_time_falls_inside_the_window(tmp_path: Path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.energyaware.test_windows", str(rank), str(tmp_path / "rendezvous")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    leader, slow = (json.loads(process.communicate(timeout=60)[0]) for process in ranks)

    (opened, worked, closed), (entered, finished) = leader["times"], slow["times"]
    assert [event for event, _ in leader["events"]] == ["open", "work", "close"]
    # CLOCK_MONOTONIC is the machine's, so the two processes' times compare.
    assert opened <= entered, "the slow rank was let in before the window was open"
    assert closed >= finished, "the window closed while the slow rank was working"
    assert worked < finished, "the leader was to be done first, or nothing is shown"
    assert closed - opened >= SLOW_S
    assert opened >= slow["came"], "the window waits for ranks that come late"


def _rank(rank: int, rendezvous: str) -> None:
    """One of two gloo ranks: rank 0 leads and is done at once, rank 1 comes late and works long."""
    import torch.distributed

    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    note, came = Recorder(), 0.0
    if rank == 1:
        time.sleep(0.3)
        came = time.monotonic()
    with GangMeter(note if rank == 0 else None).window("train", epoch=1):
        if rank == 1:
            note.note("work")
            time.sleep(SLOW_S)
        note.note("work")
    print(json.dumps({"events": note.events, "times": note.times, "came": came}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _rank(int(sys.argv[1]), sys.argv[2])

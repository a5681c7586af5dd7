"""When a checkpoint is due, which count, and which are kept. No torch."""

import dataclasses
import json
import subprocess
import sys
import threading
import time

import pytest

from energyaware import points
from energyaware.checkpoint_store import COMMIT, Checkpoints, Committed, Start, last_committed
from energyaware.checkpoints import CheckpointRule, Keeping, Pace
from energyaware.errors import Interrupted
from energyaware.files_local import LocalFiles

START = Start("abc", "masks", world_size=2, zero_stage=1, versions={"torch": "2", "deepspeed": "0"})
COMMITTED = Committed(
    START, step=7, epoch=2, attempts=[[1, 0, 7]], epochs=[{"epoch": 1, "loss": 0.1 + 0.2}], loss_sums=[1 / 3, 2 / 3],
    overflows=1, files={"state.pt": 10},
)  # fmt: skip


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(LocalFiles(tmp_path), "abc")


def leave(checkpoints, step, attempt=1, **changes):
    """A checkpoint of ten bytes and its COMMIT."""
    checkpoints.files.write(f"{checkpoints.folder(step)}/state.pt", bytes(10))
    checkpoints.commit(dataclasses.replace(COMMITTED, step=step, attempts=[[attempt, 0, step]], **changes))


def steps(checkpoints):
    """Steps of what is there, whole or not."""
    return sorted({int(name.split("/")[-2]) for name in checkpoints.files.names("checkpoints/abc")})


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.mark.parametrize(
    ("rule", "cost_s", "interval_s"),
    [
        (CheckpointRule(), 0.0, 10.0),
        (CheckpointRule(), 0.1, 10.0),
        (CheckpointRule(), 2.0, 100.0),
        (CheckpointRule(), 60.0, 600.0),
        (CheckpointRule(every_s=30.0), 60.0, 30.0),
        (CheckpointRule(every_s=30.0, every_steps=5), 0.0, 30.0),
        (CheckpointRule(every_steps=5), 0.0, None),
    ],
)
def test_without_a_wish_checkpoints_take_two_percent_of_the_time(rule, cost_s, interval_s):
    assert rule.interval_s(cost_s) == (interval_s and pytest.approx(interval_s))


def test_time_counts_from_the_end_of_the_last_one(tmp_path):
    clock = Clock()
    pace = Pace(CheckpointRule(), clock)
    clock.now_s = 9.9
    assert not pace.due()
    clock.now_s = 10.0
    assert pace.due()
    clock.now_s = 12.0
    pace.left(began_s=10.0)
    clock.now_s = 111.9
    assert not pace.due()
    clock.now_s = 112.0
    assert pace.due()


def test_by_steps_they_are_due_at_multiples_whatever_the_clock_says():
    rule = CheckpointRule(every_steps=5)
    assert [step for step in range(1, 16) if rule.due_at(step)] == [5, 10, 15]
    clock = Clock()
    pace = Pace(rule, clock)
    clock.now_s = 1e9
    assert not pace.due()
    assert not CheckpointRule(every_s=1.0).due_at(5)


def test_who_keeps_its_work_can_be_stopped():
    Keeping().check()
    with pytest.raises(Interrupted, match="the run was stopped"):
        Keeping(stopping=lambda: True).check()


def test_commit_says_the_same_to_the_last_bit_when_it_is_read_again():
    assert Committed.from_json(COMMITTED.as_json()) == COMMITTED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        json.dumps({"step": 7}).encode(),
        COMMITTED.as_json()[:-1],
        COMMITTED.as_json().replace(b'"state.pt"', b'"../../etc/state.pt"'),
        COMMITTED.as_json().replace(b'"step": 7', b'"step": "7"'),
        COMMITTED.as_json().replace(b'"world_size": 2', b'"world_size": 3'),
        dataclasses.replace(COMMITTED, attempts=[]).as_json(),
        COMMITTED.as_json().replace(b'"overflows"', b'"unknown"'),
    ],
)
def test_what_is_no_commit_is_refused_in_one_line(content):
    with pytest.raises(ValueError, match=r"^its COMMIT is not one of this version$"):
        Committed.from_json(content)


def test_the_newest_is_of_the_last_attempt_and_then_of_the_most_steps(checkpoints):
    assert last_committed(checkpoints.files, "abc") is None
    for step, attempt in ((10, 1), (20, 1), (5, 2), (15, 2)):
        leave(checkpoints, step, attempt)
    assert [committed.step for committed in checkpoints.usable(START)] == [15, 5, 20, 10]
    last = last_committed(checkpoints.files, "abc")
    assert (last["step"], last["attempts"]) == (15, [[2, 0, 15]])
    assert last["stage_id"] == "abc"
    assert last["epochs"] == [{"epoch": 1, "loss": 0.1 + 0.2}]
    assert last_committed(checkpoints.files, "another") is None


def test_only_so_many_are_kept_and_nothing_that_was_never_committed(checkpoints):
    for step in (1, 2, 3):
        leave(checkpoints, step)
    checkpoints.files.write(f"{checkpoints.folder(4)}/state.pt", b"of a rank that was killed")
    checkpoints.retain(CheckpointRule(keep=2))
    assert steps(checkpoints) == [2, 3]


@pytest.mark.parametrize(("max_bytes", "kept"), [(5, [3]), (19, [3]), (20, [2, 3]), (30, [1, 2, 3])])
def test_older_ones_are_kept_as_far_as_they_fit_and_the_last_one_always(checkpoints, max_bytes, kept):
    for step in (1, 2, 3):
        leave(checkpoints, step)
    checkpoints.retain(CheckpointRule(keep=10, max_bytes=max_bytes))
    assert steps(checkpoints) == kept


@pytest.mark.parametrize(
    ("point", "remove", "left"),
    [
        ("checkpoint-pruning", lambda some: some.retain(CheckpointRule(keep=1)), [2]),
        ("checkpoints-removing", lambda some: some.remove(), []),
    ],
)
def test_one_that_is_being_removed_loses_its_commit_first(checkpoints, tmp_path, monkeypatch, point, remove, left):
    for step in (1, 2):
        leave(checkpoints, step)
    control = tmp_path / "points"
    control.mkdir()
    (control / "hold").write_text(point)
    monkeypatch.setenv(points.FOLDER, str(control))
    removing = threading.Thread(target=remove, args=(checkpoints,))
    removing.start()
    try:
        while not (control / "held").exists():
            assert removing.is_alive()
            time.sleep(0.01)
        assert [committed.step for committed in checkpoints.usable(START)] == left
        assert steps(checkpoints) == [1, 2]
    finally:
        (control / "go").touch()
        removing.join()
    assert steps(checkpoints) == left


def test_what_can_be_gone_on_from_is_read_without_torch(checkpoints):
    leave(checkpoints, 3)
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from energyaware.checkpoint_store import last_committed\nfrom energyaware.files_local import LocalFiles\n"
        f"print(last_committed(LocalFiles(Path({str(checkpoints.files.root)!r})), 'abc')['step'])\n"
        "print([name for name in ('torch', 'deepspeed', 'numpy', 'ray') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "3\n[]\n"


def test_a_commit_in_the_wrong_folder_does_not_count(checkpoints):
    leave(checkpoints, 3)
    content = checkpoints.files.read(f"{checkpoints.folder(3)}/{COMMIT}")
    checkpoints.files.write(f"{checkpoints.folder(9)}/{COMMIT}", content)
    assert [committed.step for committed in checkpoints.usable(START)] == [3]

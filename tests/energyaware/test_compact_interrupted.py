"""Merging changes no row that a reader sees, wherever it is killed or loses the results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analysis import load
from energyaware.compact import compact
from energyaware.errors import Fenced
from energyaware.files import open_files
from tests.energyaware.compacted import allowed, files, seen, singles, sweep

POINTS = ("compact-unmoved", "compact-moved", "compact-removing")

COMPACT = """
import sys
from energyaware.compact import compact
from energyaware.files import open_files
compact(open_files(sys.argv[1]), lambda: None, rows_per_file=int(sys.argv[2]))
"""


def test_nothing_is_changed_where_that_is_not_allowed(tmp_path):
    sweep(tmp_path)
    before = files(tmp_path)

    def refuse():
        raise Fenced("another run took the results over")

    with pytest.raises(Fenced):
        compact(open_files(tmp_path), refuse)
    assert files(tmp_path) == before


@pytest.mark.parametrize("asked", range(1, 20))
def test_who_loses_the_results_on_the_way_leaves_them_whole(tmp_path, asked):
    sweep(tmp_path)
    before = seen(tmp_path)
    times = iter(range(1, 1000))

    def lose():
        if next(times) == asked:
            raise Fenced("another run took the results over")

    try:
        compact(open_files(tmp_path), lose, rows_per_file=4)
    except Fenced:
        assert singles(tmp_path) != []
    assert seen(tmp_path) == before
    compact(open_files(tmp_path), allowed, rows_per_file=4)
    assert (seen(tmp_path), singles(tmp_path)) == (before, [])


@pytest.mark.parametrize("asked", [4, 5])  # before the rows of inferences are in their place, and after
def test_a_file_that_is_written_anew_meanwhile_is_not_removed(tmp_path, asked):
    lab = sweep(tmp_path)
    times = iter(range(1, 1000))

    def meanwhile():
        if next(times) == asked:
            lab.inference("i0", precision="p0", energy=99.0, attempt=2)

    done = compact(open_files(tmp_path), meanwhile)
    assert done.left == ["stages/inference/i0.parquet: was written anew meanwhile"]
    (row,) = [row for row in seen(tmp_path)["stages"] if row["stage_id"] == "i0"]
    assert (row["energy_j_per_request"], row["attempt"]) == (99.0, 2)


def killed_at(folder: Path, points: Path, point: str, number: int, rows_per_file: int) -> None:
    """Compact in a process that is killed when it reaches a point for the n-th time."""
    points.mkdir()
    (points / "hold").write_text(f"{point} {number}")
    command = [sys.executable, "-c", COMPACT, str(folder), str(rows_per_file)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, env=os.environ | {"ENERGYAWARE_POINTS": str(points)}, cwd=root) as process:
        while not (points / "held").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("point", POINTS)
def test_one_that_is_killed_has_changed_nothing_and_the_next_finishes_it(tmp_path, point, number):
    folder = tmp_path / "results"
    lab = sweep(folder)
    compact(open_files(folder), allowed, rows_per_file=8)
    for name in ("i0", "i3", "new"):
        lab.inference(name, precision=name, energy=50.0, attempt=2)
        lab.attempt(name, "finished", attempt=1, energy_j=51.0)
        lab.attempt(name, "finished", attempt=2, energy_j=52.0)
        lab.energy(name, {"window": "prefill", "kept": True}, {"window": "decode", "energy_j": 53.0})
        lab.node(name, "cpu", 12.0, 9.0, 3.0, 0.0)
    before = seen(folder)
    killed_at(folder, tmp_path / "points", point, number, rows_per_file=8)
    assert seen(folder) == before
    assert all(problem.startswith(".incoming: 1 unfinished") for problem in load(folder).problems)
    compact(open_files(folder), allowed, rows_per_file=8)
    assert (seen(folder), singles(folder)) == (before, [])


def test_merged_files_whose_rows_are_all_in_a_newer_one_are_removed_by_the_next(tmp_path):
    folder = tmp_path / "results"
    lab = sweep(folder)
    compact(open_files(folder), allowed)
    (older,) = (folder / "stages" / "inference").iterdir()
    lab.inference("new", precision="new")
    before = seen(folder)
    killed_at(folder, tmp_path / "points", "compact-moved", 1, rows_per_file=100)
    assert older.exists()
    (folder / "stages" / "inference" / "new.parquet").unlink()  # its row is merged: nothing else is left to do
    compact(open_files(folder), allowed)
    assert not older.exists()
    assert seen(folder) == before

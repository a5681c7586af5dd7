"""Compacting where there is nothing to compact changes nothing."""

import pytest

from energyaware.errors import InputError
from energyaware.store import Store
from sweep.compaction import compact_results


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: holds no results: nothing to compact$"):
        compact_results(Store(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no results"):
        compact_results(Store(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

import multiprocessing
import os
import signal
import time

import pyarrow.parquet as pq
import pytest

from energyaware.arrow import SCHEMAS, to_table
from energyaware.errors import InputError
from energyaware.rows import SCHEMA_VERSION
from energyaware.store import Store

ROW = {"stage_id": "abc", "kind": "inference", "state": "finished", "attempt": 1, "device": "cpu"}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "results")
    store.create()
    return store


def visible(store):
    return sorted(str(p.relative_to(store.root)) for p in store.root.glob("*/**/*") if p.is_file())


def test_a_committed_stage_is_finished_and_reads_back(store):
    assert store.finished() == frozenset()
    store.commit_stage(ROW)
    assert store.finished() == {"abc"}
    assert store.stage_row("abc")["device"] == "cpu"
    assert store.stage_row("abc")["schema_version"] == SCHEMA_VERSION
    assert store.stage_row("abc")["energy_j"] is None  # missing is null, never 0
    assert [p for p in visible(store) if ".incoming" in p] == []


def test_files_have_the_tables_schema(store):
    store.write_rows("energy", "abc-1", [{"stage_id": "abc", "window": "train", "energy_j": 1.5}])
    table = pq.read_table(store.root / "energy" / "abc-1.parquet")
    assert table.schema.equals(SCHEMAS["energy"])


def test_no_rows_no_file(store):
    store.write_rows("epochs", "abc-1", [])
    assert visible(store) == []


def test_unknown_columns_are_refused():
    with pytest.raises(KeyError, match="joules"):
        to_table("energy", [{"joules": 1.0}])


def test_attempts_are_counted(store):
    assert store.attempts() == {}
    for number in (1, 2, 11):
        store.write_rows("attempts", f"abc-{number}", [{"stage_id": "abc", "attempt": number}])
    assert store.attempts() == {"abc": 11}


def test_an_artifact_appears_whole_or_not_at_all(store):
    def fill_half():
        with store.new_artifact("abc") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill_half()
    assert not store.artifact("abc").exists()
    with store.new_artifact("abc") as folder:
        (folder / "whole").write_text("x")
        assert not store.artifact("abc").exists()
    assert (store.artifact("abc") / "whole").exists()
    with store.new_artifact("abc") as folder:
        (folder / "newer").write_text("x")
    assert [p.name for p in store.artifact("abc").iterdir()] == ["newer"]


def _write_for_ever(root):
    store = Store(root)
    number = 0
    while True:
        store.commit_stage({**ROW, "stage_id": f"s{number}"})
        number += 1


def test_killing_the_writer_never_leaves_a_torn_row(store):
    writer = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(store.root,))
    writer.start()
    deadline = time.monotonic() + 60
    while len(store.finished()) < 50 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert len(store.finished()) >= 50
    for stage in store.finished():
        assert store.stage_row(stage)["stage_id"] == stage
    store.clear_incoming()
    assert list((store.root / ".incoming").iterdir()) == []


@pytest.mark.parametrize("where", ["s3://bucket/results", "gs://x"])
def test_urls_are_refused_until_they_are_supported(where):
    with pytest.raises(InputError, match="URLs are not supported yet"):
        Store(where)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written to"):
        Store(tmp_path / "file" / "results").create()

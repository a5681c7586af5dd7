import multiprocessing
import os
import pickle
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from energyaware.arrow import SCHEMAS, to_table
from energyaware.energy.ledger_file import write_ledger
from energyaware.errors import Fenced, InputError, StorageError
from energyaware.files_local import LocalFiles
from energyaware.rows import SCHEMA_VERSION
from energyaware.store import Store

pytest_plugins = "tests.s3"

ROW = {"stage_id": "abc", "kind": "inference", "state": "finished", "attempt": 1, "device": "cpu"}


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setenv("ENERGYAWARE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Store(tmp_path / "results" if request.param == "folder" else request.getfixturevalue("bucket") + "/results")
    store.create()
    return store


def visible(store):
    return store.files.names("")


def read(store, name):
    return pq.read_table(pa.BufferReader(store.files.read(name)))


def test_a_committed_stage_is_finished_and_reads_back(store):
    assert store.finished() == frozenset()
    assert store.commit_stage(ROW)
    assert store.finished() == {"abc"}
    assert store.stage_row("abc")["device"] == "cpu"
    assert store.stage_row("abc")["schema_version"] == SCHEMA_VERSION
    assert store.stage_row("abc")["energy_j"] is None  # missing is null, never 0
    assert visible(store) == ["stages/inference/abc.parquet"]
    with pytest.raises(KeyError):
        store.stage_row("abcd")


def test_a_stage_is_committed_once(store):
    assert store.commit_stage(ROW)
    assert not store.commit_stage(ROW | {"attempt": 2})
    assert store.stage_row("abc")["attempt"] == 1


def test_a_stage_that_is_replaced_keeps_its_earlier_row(store):
    assert store.commit_stage(ROW | {"attempt": 4}, replace=True)
    assert store.commit_stage(ROW | {"attempt": 6}, replace=True)
    assert store.commit_stage(ROW | {"attempt": 7}, replace=True)
    assert store.stage_row("abc")["attempt"] == 7
    assert store.finished() == {"abc"}
    assert [read(store, f"superseded/abc-{n}.parquet")["attempt"].to_pylist() for n in (4, 6)] == [[4], [6]]


def test_rows_in_compacted_files_count_as_any(store):
    rows = [ROW | {"stage_id": name, "attempt": number} for name in ("one", "two") for number in (1, 2)]
    store.write_rows("stages", "inference/compacted-20260501T120000-ab", rows)
    store.write_rows("attempts", "compacted-20260501T120000-ab", [{"stage_id": "one", "attempt": 3}])
    store.commit_stage(ROW)
    store.write_rows("attempts", "one-12", [{"stage_id": "one", "attempt": 12}])

    assert store.finished() == {"one", "two", "abc"}
    assert store.attempt_keys() == {("one", 3), ("one", 12)}
    assert store.attempts() == {"one": 12}
    assert store.stage_row("two")["attempt"] == 2
    assert not store.commit_stage(ROW | {"stage_id": "one"})
    assert store.commit_stage(ROW | {"stage_id": "one", "attempt": 13}, replace=True)
    assert store.stage_row("one")["attempt"] == 13
    assert read(store, "superseded/one-2.parquet")["stage_id"].to_pylist() == ["one"]


def test_a_torn_compacted_file_stops_a_launch_by_name(store):
    store.files.write("stages/inference/compacted-1.parquet", b"PAR1torn")
    with pytest.raises(InputError, match=r"stages/inference/compacted-1\.parquet: is no table that can be read"):
        store.finished()


def test_files_have_the_tables_schema(store):
    store.write_rows("energy", "abc-1", [{"stage_id": "abc", "window": "train", "energy_j": 1.5}])
    assert read(store, "energy/abc-1.parquet").schema.equals(SCHEMAS["energy"])


def test_no_rows_no_file(store):
    store.write_rows("epochs", "abc-1", [])
    assert visible(store) == []


def test_what_a_thousand_stages_left_is_known_in_a_moment(tmp_path):
    store = Store(tmp_path)
    for folder in ("stages/inference", "attempts"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(1000):
        (tmp_path / f"stages/inference/s{number}.parquet").touch()
        (tmp_path / f"attempts/s{number}-1.parquet").touch()
    began_s = time.process_time()
    assert len(store.finished()) == len(store.attempts()) == 1000
    assert time.process_time() - began_s < 1.0, "two listings, no file is read"


def test_who_lost_the_lease_writes_no_more_rows(store):
    store.files.create("lease/000003.json", b"{}")
    for number in (None, 3):
        store.fence(number)
        store.commit_stage(ROW, replace=True)
    before = visible(store)
    store.files.create("lease/000004.json", b"{}")
    for fenced in (store, pickle.loads(pickle.dumps(store))):
        for write in (
            lambda: store.commit_stage(ROW | {"stage_id": "new"}),
            lambda fenced=fenced: fenced.write_rows("attempts", "abc-1", [{"stage_id": "abc", "attempt": 1}]),
            lambda fenced=fenced: fenced.write_plan([]),
        ):
            with pytest.raises(Fenced, match="another run took the results over"):
                write()
    assert visible(store) == sorted([*before, "lease/000004.json"])


def test_texts_read_back(store):
    assert store.read_text("sweep.yaml") is None
    store.write_text("sweep.yaml", "name: é\n")
    assert store.read_text("sweep.yaml") == "name: é\n"


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
    assert visible(store) == []
    with store.new_artifact("abc") as folder:
        (folder / "whole").write_text("x")
        (folder / "base").mkdir()
        (folder / "base" / "weights").write_text("y")
        assert visible(store) == []
    assert visible(store) == ["artifacts/abc/base/weights", "artifacts/abc/whole"]
    assert (store.artifact("abc") / "base" / "weights").read_text() == "y"
    with store.new_artifact("abc") as folder:
        (folder / "newer").write_text("x")
    assert visible(store) == ["artifacts/abc/newer"]
    assert [p.name for p in store.artifact("abc").iterdir()] == ["newer"]
    assert list(store.scratch_folder("abc").parent.iterdir()) == []


def test_an_artifact_on_object_storage_is_fetched_once_and_again_where_its_copy_was_cleaned(
    bucket, tmp_path, monkeypatch
):
    monkeypatch.setenv("ENERGYAWARE_CACHE", str(tmp_path))
    store = Store(f"{bucket}/results")
    with store.new_artifact("abc") as folder:
        (folder / "weights").write_text("xyz")
    copy = store.artifact("abc")
    store.files.remove("artifacts/abc/weights")
    assert store.artifact("abc") == copy, "not fetched again"
    (copy / "weights").unlink()
    with pytest.raises(StorageError, match="artifacts/abc: is being replaced, or files of it are gone"):
        store.artifact("abc")
    store.files.write("artifacts/abc/weights", b"xyz")
    assert (store.artifact("abc") / "weights").read_text() == "xyz"
    store.files.remove("artifacts/abc/_manifest.json")
    with pytest.raises(StorageError, match="artifacts/abc: is not whole; its stage has to be run again"):
        store.artifact("abc")


def fetch(url, ready, fetched):
    ready.wait(60)
    fetched.put((Store(url).artifact("abc") / "weights").read_text())


def test_processes_of_one_machine_fetch_an_artifact_side_by_side(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("ENERGYAWARE_CACHE", str(tmp_path))
    store = Store(f"{bucket}/results")
    with store.new_artifact("abc") as folder:
        (folder / "weights").write_text("xyz" * 100_000)
    spawn = multiprocessing.get_context("spawn")
    ready, fetched = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=fetch, args=(store.url, ready, fetched)) for _ in range(2)]
    for process in processes:
        process.start()
    assert {fetched.get(timeout=60) for _ in processes} == {"xyz" * 100_000}
    for process in processes:
        process.join()


def test_a_scratch_folder_is_emptied_first_and_removed_after(store):
    store.scratch_folder("abc").mkdir(parents=True)
    (store.scratch_folder("abc") / "old").touch()
    with store.scratch("abc") as folder:
        assert folder == pickle.loads(pickle.dumps(store)).scratch_folder("abc")
        assert list(folder.iterdir()) == []
    assert not folder.exists()


def _leave_artifact(store):
    with store.new_artifact("abc") as folder:
        (folder / "weights").write_text("x")


ACTS = {
    "row-unmoved": lambda store: store.commit_stage(ROW),
    "row-moved": lambda store: store.commit_stage(ROW),
    "artifact-unmoved": _leave_artifact,
    "artifact-moved": _leave_artifact,
    "ledger-writing": lambda store: write_ledger(store.ledger("run", "node"), LEDGER),
}
LEDGER = {"run": "run", "node": "node", "attempts": [], "energy": [], "nodes": []}


def _act(url, point):
    ACTS[point](Store(url))


@pytest.mark.parametrize("point", ACTS)
def test_killed_at_a_point_all_is_there_or_nothing_and_it_can_be_done_again(store, point, tmp_path, monkeypatch):
    points = tmp_path / "points"
    points.mkdir()
    (points / "hold").write_text(point)
    with monkeypatch.context() as environment:
        environment.setenv("ENERGYAWARE_POINTS", str(points))
        writer = multiprocessing.get_context("spawn").Process(target=_act, args=(store.url, point))
        writer.start()
    deadline_s = time.monotonic() + 60
    while not (points / "held").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    writer.kill()
    writer.join()
    done = {"row-moved": ["stages/inference/abc.parquet"], "artifact-moved": ["artifacts/abc/weights"]}
    assert visible(store) == done.get(point, [])
    store.clear_incoming()
    ACTS[point](store)
    assert len(visible(store)) == 1


def _write_for_ever(root):
    store = Store(root)
    number = 0
    while True:
        store.commit_stage({**ROW, "stage_id": f"s{number}"})
        number += 1


def test_killing_the_writer_never_leaves_a_torn_row(store):
    writer = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(store.url,))
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
    assert not (store.scratch_folder("x").parent).exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written to: Not a directory"):
        Store(tmp_path / "file" / "results").create()


def created_with(monkeypatch, after):
    """Have something done after each file of a folder that is created."""
    create = LocalFiles.create

    def create_then(files, name, content, **options):
        created = create(files, name, content, **options)
        after(files, name)
        return created

    monkeypatch.setattr(LocalFiles, "create", create_then)


def test_a_probe_that_is_swept_away_by_who_holds_the_results_is_made_again(tmp_path, monkeypatch):
    sweeps = iter([True, False, True, False])
    created_with(monkeypatch, lambda files, name: next(sweeps, False) and Store(tmp_path).clear_incoming())
    Store(tmp_path).create()
    assert next(sweeps, None) is None


def test_storage_that_overwrites_what_it_is_to_create_is_refused(tmp_path, monkeypatch):
    created_with(monkeypatch, lambda files, name: files.remove(name))
    with pytest.raises(InputError, match="overwrites what it was asked to create only where there is nothing"):
        Store(tmp_path).create()


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A user's folder among those of all users, which is not there yet."""
    pytest.importorskip("s3fs")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"energyaware-{os.getuid()}"


def test_what_is_unfinished_lies_where_other_users_cannot_write(shared):
    with Store("s3://bucket/results").scratch("abc") as folder:
        assert folder.is_relative_to(shared)
        assert shared.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: folder.mkdir() or folder.chmod(0o777),
        lambda folder: folder.mkdir() or folder.chmod(0o770),
        lambda folder: folder.symlink_to(folder.parent),
        lambda folder: folder.symlink_to(folder.parent / "nowhere"),
        Path.touch,
        pytest.param(
            lambda folder: folder.mkdir() or os.chown(folder, 65534, 65534),
            marks=pytest.mark.skipif(os.getuid() != 0, reason="only root makes folders of others"),
        ),
    ],
    ids=["of all", "of a group", "link", "link to nothing", "file", "of another"],
)
def test_a_place_for_what_is_unfinished_that_others_could_fill_is_refused(shared, make):
    make(shared)
    store = Store("s3://bucket/results")
    for use in (lambda: store.scratch("abc").__enter__(), lambda: store.new_artifact("abc").__enter__()):
        with pytest.raises(StorageError, match=f"^{shared}: is .*; remove it, or set TMPDIR to a folder of your own$"):
            use()


def test_a_bucket_that_is_not_there(bucket):
    with pytest.raises(InputError, match=r"s3://no-such-bucket/x: results: cannot be written to: .*does not exist"):
        Store("s3://no-such-bucket/x").create()
    assert Store("s3://no-such-bucket/x").finished() == frozenset()


def test_a_full_disk_is_told_at_the_start(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        with pytest.raises(OSError, match="No space"):
            (disk / "others").write_bytes(bytes(100_000))
        with pytest.raises(InputError, match="cannot be written to: No space left on device"):
            Store(disk / "results").create()
    finally:
        subprocess.run(["umount", disk], check=True)

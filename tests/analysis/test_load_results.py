import os
import shutil
import sys
import tempfile
import threading
from contextlib import contextmanager
from os import mkfifo
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from analysis import load, ranking, status
from energyaware import rows
from energyaware.arrow import SCHEMAS
from energyaware.compact import compact
from energyaware.errors import InputError
from energyaware.files import open_files
from energyaware.rows import FILLED
from tests.analysis.builders import Lab, node_row, write

pytest_plugins = "tests.s3"

TABLES = ["stages", "attempts", "epochs", "quality", "energy", "nodes"]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "results")
    lab.finetune()
    lab.inference("a", precision="A", energy=2.0)
    lab.inference("b", precision="B", energy=1.0)
    lab.attempt("a", "finished")
    return lab


def test_every_table_has_its_schema_even_where_it_is_missing(lab):
    results = lab.results()
    assert results.problems == []
    assert results.has_plan
    for name, frame in results.tables().items():
        schema = pl.DataFrame(SCHEMAS[name].empty_table()).schema
        assert frame.collect_schema() == pl.Schema(schema | {"sweep": pl.String()})
    heights = {name: frame.collect().height for name, frame in results.tables().items()}
    assert heights == {"plan": 3, "stages": 3, "attempts": 1, "epochs": 0, "quality": 2, "energy": 0, "nodes": 0}


def test_a_folder_that_is_missing_or_holds_no_results_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: there is no such results folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "x.parquet").write_text("not a table")
    with pytest.raises(InputError, match="holds no results"):
        load(tmp_path)


def test_a_plan_alone_is_a_folder_of_results(tmp_path):
    lab = Lab(tmp_path)
    lab.finetune(run=False)
    assert lab.results().plan.collect()["stage_id"].to_list() == ["ft"]


def torn(file: Path) -> None:
    whole = write(file, "stages", {"stage_id": "torn", "kind": "inference"}).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def damaged_inside(file: Path) -> None:
    whole = bytearray(write(file, "stages", {"stage_id": "torn", "kind": "inference"}).read_bytes())
    whole[4:400] = bytes(396)
    file.write_bytes(whole)


def newer(file: Path) -> None:
    write(file, "stages", {"stage_id": "new", "schema_version": rows.SCHEMA_VERSION + 1})


STAGE = {"stage_id": "z", "kind": "inference"}


@pytest.mark.parametrize(
    ("name", "spoil", "problem"),
    [
        ("z.parquet", lambda file: file.write_bytes(b""), "empty (0 bytes)"),
        ("z.parquet", torn, "torn, or not a Parquet file"),
        ("z.parquet", damaged_inside, "torn, or not a Parquet file"),
        ("z.parquet", lambda file: file.write_text("hello, I am a text"), "torn, or not a Parquet file"),
        ("notes.txt", lambda file: file.write_text("hello"), "not a Parquet file"),
        ("z.parquet", lambda file: pq.write_table(pa.table({"x": [1]}), file), "not a table of ours"),
        ("z.parquet", newer, f"written under schema {rows.SCHEMA_VERSION + 1}, newer than {rows.SCHEMA_VERSION}"),
        ("z.parquet", lambda file: write(file, "attempts", {"stage_id": "z"}), "a file of the table attempts"),
        ("z.parquet", lambda file: write(file, "plan", {"stage_id": "z"}), "a file of the table plan"),
        ("z.parquet", lambda file: write(file, "nodes", {"node": "z"}), "a file of the table nodes"),
        ("z.parquet", lambda file: write(file / "inside.parquet", "stages", STAGE), "a folder, not a file"),
        ("z.parquet", mkfifo, "not a file"),
        ("z.parquet", lambda file: file.symlink_to("gone"), "No such file or directory"),
        ("compacted-20260101T000000000000Z-0a1b2c3d.parquet", torn, "torn, or not a Parquet file"),
        ("compacted-20260101T000000000000Z-0a1b2c3d.parquet", lambda file: file.touch(), "empty (0 bytes)"),
        (
            "z.parquet",
            lambda file: pq.write_table(pa.table({"stage_id": ["z"], "energy_j": ["much"]}), file),
            "data type mismatch for column energy_j: incoming: String != target: Float64",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_harmless(lab, name, spoil, problem):
    before = ranking(lab.results()).collect()
    spoil(lab.folder / "stages" / "inference" / name)
    results = lab.results()
    assert results.problems == [f"stages/inference/{name}: {problem}; skipped"]
    assert ranking(results).collect().equals(before)
    assert before.height == 2


@pytest.mark.parametrize("table", ["plan", *TABLES])
def test_every_table_names_what_is_not_its_own(lab, table):
    before = ranking(lab.results()).collect()
    others = [other for other in ("plan", *TABLES) if other != table]
    if table == "plan":
        (lab.folder / "plan.parquet").unlink()
        for other in others:
            write(lab.folder / "plan.parquet", other, {FILLED[other]: "z"})
            results = load(lab.folder)
            assert results.problems == [f"plan.parquet: a file of the table {other}; skipped"]
            assert not results.has_plan
            assert_frame_equal(ranking(results).collect(), before)
        return
    for other in others:
        write(lab.folder / table / f"z-{other}.parquet", other, {FILLED[other]: "z"})
    (lab.folder / table / "empty.parquet").touch()
    (lab.folder / table / "torn.parquet").write_bytes(b"PAR1 torn")
    (lab.folder / table / "posing.parquet").mkdir()
    (lab.folder / table / "notes.txt").write_text("hello")
    write(lab.folder / table / "newer.parquet", table, {FILLED[table]: "z", "schema_version": rows.SCHEMA_VERSION + 1})
    results = lab.results()
    assert sorted(results.problems) == sorted(
        f"{table}/{problem}; skipped"
        for problem in (
            *(f"z-{other}.parquet: a file of the table {other}" for other in others),
            "empty.parquet: empty (0 bytes)",
            "torn.parquet: torn, or not a Parquet file",
            "posing.parquet: a folder, not a file",
            "notes.txt: not a Parquet file",
            f"newer.parquet: written under schema {rows.SCHEMA_VERSION + 1}, newer than {rows.SCHEMA_VERSION}",
        )
    )
    assert_frame_equal(ranking(results).collect(), before)


@pytest.fixture
def as_nobody():
    """Gives up root's right to read everything, in this process; a folder that nobody can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)

    @contextmanager
    def switched():
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    yield folder, switched
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("forbidden", "problem"),
    [
        ("stages/inference/a.parquet", "stages/inference/a.parquet: Permission denied; skipped"),
        ("stages/inference", "stages/inference: Permission denied; skipped"),
        ("energy", "energy: Permission denied; skipped"),
        ("plan.parquet", "plan.parquet: Permission denied; skipped"),
        ("ledger", "ledger: Permission denied; skipped"),
        ("ledger/r1-n1.json", "ledger/r1-n1.json: Permission denied; skipped"),
        ("lease/000001.json", "lease/000001.json: Permission denied; skipped"),
    ],
)
def test_what_may_not_be_read_is_named(as_nobody, forbidden, problem):
    folder, switched = as_nobody
    lab = Lab(folder / "results")
    lab.inference("a", needs=None)
    lab.energy("a", {"window": "decode"})
    lab.ledger()
    lab.lease()
    lab.results()
    for path in [lab.folder, *lab.folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    (lab.folder / forbidden).chmod(0)
    with switched():
        assert load(lab.folder).problems == [problem]
    (lab.folder / forbidden).chmod(0o755)


def test_a_file_in_place_of_a_folder_is_named(lab):
    (lab.folder / "energy").write_text("hello")
    assert lab.results().problems == ["energy: Not a directory; skipped"]


def test_files_that_are_merged_while_they_are_read_are_not_missed(lab):
    for number in range(40):
        lab.inference(f"i{number}", precision=f"p{number}")
    lab.results()
    stop = threading.Event()

    def keep_merging():
        while not stop.is_set():
            compact(open_files(lab.folder), lambda: None)
            for number in range(40):
                name = f"i{number}"
                write(lab.folder / "stages" / "inference" / f"{name}.parquet", "stages", {**STAGE, "stage_id": name})

    merging = threading.Thread(target=keep_merging)
    merging.start()
    try:
        for _ in range(20):
            assert load(lab.folder).stages.collect().height == 43
    finally:
        stop.set()
        merging.join()


def test_results_in_object_storage_are_read_by_their_url(lab, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"{bucket}/results"
    with pytest.raises(InputError, match=rf"{url}: holds no results"):
        load(url)
    lab.lease()
    before = lab.results()
    files = open_files(url)
    for path in lab.folder.rglob("*"):
        if path.is_file():
            files.write(path.relative_to(lab.folder).as_posix(), path.read_bytes())
    files.write("artifacts/ft/model.safetensors", b"large")
    results = load(url)
    assert_frame_equal(ranking(results).collect(), ranking(before).collect())
    assert (results.problems, results.held_by) == ([], before.held_by)
    assert not (results.folder / "artifacts").exists()
    files.remove("stages/inference/a.parquet")
    assert load(url).stages.collect().height == 2
    assert load(f"file://{lab.folder}").stages.collect().height == 3


def test_several_spoilt_files_are_all_named_across_tables(lab):
    spoilt = ["stages/finetune/x.parquet", "attempts/x.parquet", "epochs/x.parquet", "quality/x.parquet"]
    for name in [*spoilt, "energy/x.parquet", "energy/y.parquet"]:
        (lab.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (lab.folder / name).write_bytes(b"PAR1 torn")
    results = lab.results()
    assert sorted(line.split(":")[0] for line in results.problems) == sorted(
        [*spoilt, "energy/x.parquet", "energy/y.parquet"]
    )
    assert results.energy.collect().is_empty()
    assert ranking(results).collect().height == 2


def test_a_spoilt_plan_is_no_plan(lab):
    lab.results()
    (lab.folder / "plan.parquet").write_bytes(b"")
    results = load(lab.folder)
    assert not results.has_plan
    assert results.problems == ["plan.parquet: empty (0 bytes); skipped"]
    assert ranking(results).collect().height == 2


@pytest.mark.parametrize("hidden", [".tmp/z.parquet", "_temporary/z.parquet", ".z.parquet", "inference/_z.parquet"])
def test_hidden_and_temporary_files_are_not_seen(lab, hidden):
    file = lab.folder / "stages" / hidden
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"half a")
    results = lab.results()
    assert results.problems == []
    assert results.stages.collect().height == 3


def test_what_a_killed_run_left_unfinished_is_named_once_nobody_is_at_work(lab):
    for name in ("0a1b-a.parquet", "scratch-ft/state"):
        (lab.folder / ".incoming" / name).parent.mkdir(parents=True, exist_ok=True)
        (lab.folder / ".incoming" / name).write_bytes(b"half a")
    assert lab.results().problems == [
        ".incoming: 2 unfinished files that a killed process left; the next run removes them"
    ]
    lab.lease()
    assert lab.results().problems == []


def test_a_results_folder_under_a_hidden_folder_is_seen(tmp_path):
    lab = Lab(tmp_path / ".cache" / "_results")
    lab.inference("a", needs=None)
    assert lab.results().stages.collect().height == 1


def test_an_older_schema_is_filled_with_null_and_integers_become_floats(lab):
    older = pa.table({"stage_id": ["old"], "kind": ["inference"], "energy_j": [7], "dropped_since": ["x"]})
    pq.write_table(older, lab.folder / "stages" / "inference" / "old.parquet")
    results = lab.results()
    (row,) = results.stages.filter(pl.col("stage_id") == "old").collect().to_dicts()
    assert results.problems == []
    assert row["energy_j"] == 7.0
    assert isinstance(row["energy_j"], float)
    assert {name for name, value in row.items() if value is not None} == {"stage_id", "kind", "energy_j", "sweep"}
    assert list(row) == SCHEMAS["stages"].names
    assert row["sweep"] == "results", "the folder's name, for there is no sweep file"


def under_schema_2(lab: Lab, table: str, name: str) -> None:
    """Rewrite a file as the version before this one did."""
    file = lab.folder / table / f"{name}.parquet"
    since = [
        "energy_kind",
        "energy_other_j",
        "energy_measured_j",
        "energy_estimated_j",
        "energy_net_j",
        "cost",
        "marks",
    ]
    since += ["run", "repeat", "power_w"]
    older = pq.read_table(file)
    older = older.drop_columns([column for column in since if column in older.column_names])
    version = older.column_names.index("schema_version")
    pq.write_table(older.set_column(version, "schema_version", pa.array([2] * older.num_rows)), file)


def test_a_folder_of_an_older_schema_says_what_kind_its_joules_are(lab):
    lab.inference("c", precision="C", energy=1.5, measured=False)
    lab.attempt("c", "failed", energy_j=7.0, measured=None)
    lab.energy("a", {"component": "cpu"}, {"component": "gpu", "device": "GPU-1"})
    for table, name in [("stages/finetune", "ft"), *(("stages/inference", name) for name in "abc")]:
        under_schema_2(lab, table, name)
    for table, name in [("attempts", "a-1"), ("attempts", "c-1"), ("energy", "a-1")]:
        under_schema_2(lab, table, name)
    results = lab.results()
    columns = ["stage_id", "energy_kind", "energy_measured_j", "energy_estimated_j", "schema_version"]
    assert results.problems == []
    assert results.stages.filter(pl.col("kind") == "inference").select(columns).sort("stage_id").collect().rows() == [
        ("a", "measured", 20.0, 0.0, 2),
        ("b", "measured", 10.0, 0.0, 2),
        ("c", "estimated", 0.0, 15.0, 2),
    ]
    assert results.attempts.select(columns[:-1]).sort("stage_id").collect().rows() == [
        ("a", "measured", 5.0, 0.0),
        ("c", None, None, None),
    ]
    assert results.energy.collect().height == 2
    rows = {row["precision"]: row for row in ranking(results, allow_mixed=True).collect().to_dicts()}
    assert {name: row["energy_kind"] for name, row in rows.items()} == {"A": "measured", "B": "measured", "C": "mixed"}
    assert rows["A"]["made_of"] == "cpu measured + gpu measured"
    assert rows["B"]["made_of"] is None


def test_a_folder_of_the_schema_before_resuming_reads_the_same(lab):
    lab.attempt("b", "interrupted", attempt=2, energy_j=7.0)
    lab.energy("a", {"window": "decode", "kept": True})
    now = status(lab.results())
    since = {"carried_attempts", "micro_batch_size", "from_step", "checkpoint_step", "energy_carried_j"}
    for file in lab.folder.glob("*/**/*.parquet"):
        older = pq.read_table(file)
        older = older.drop_columns(sorted(since & set(older.column_names)))
        version = older.column_names.index("schema_version")
        pq.write_table(older.set_column(version, "schema_version", pa.array([3] * older.num_rows)), file)
    assert status(lab.results()) == now
    assert (now.lost_energy_j, now.carried_energy_j, now.problems) == (7.0, 0.0, [])


def test_a_row_of_energy_or_of_a_node_counts_once_however_many_files_hold_it(lab):
    row = {"component": "gpu", "device": "GPU-1", "window": "train", "epoch": 1}
    lab.energy("a", row, row | {"epoch": 2}, row | {"repeat": 1}, row | {"device": None}, row | {"energy_j": 2.0})
    lab.energy("b", row | {"stage_id": "a", "energy_j": 3.0})
    lab.node("n1", "cpu", 10.0, 5.0, 5.0, 0.0)
    lab.node("n1", "cpu", 12.0, 5.0, 7.0, 0.0, device=None)
    write(lab.folder / "nodes" / "z.parquet", "nodes", node_row("n1", "cpu", 14.0, 5.0, 9.0, 0.0))
    results = lab.results()
    assert sorted(results.energy.collect()["energy_j"]) == [1.0, 1.0, 1.0, 3.0]
    assert results.nodes.collect()["energy_j"].to_list() == [14.0]


def test_a_stage_is_one_row_however_many_files_hold_it(lab):
    compacted = pq.read_table(lab.folder / "stages" / "inference" / "a.parquet", schema=SCHEMAS["stages"])
    pq.write_table(compacted, lab.folder / "stages" / "all.parquet")
    stages = lab.results().stages.collect()
    assert sorted(stages["stage_id"]) == ["a", "b", "ft"]


def test_a_large_table_stays_on_disk_and_reads_the_same(lab, monkeypatch):
    (lab.folder / "quality" / "x.parquet").write_bytes(b"torn")
    small = lab.results()
    monkeypatch.setattr(sys.modules["analysis.tables"], "_IN_MEMORY_BYTES", 0)
    large = lab.results()
    assert "SCAN" in large.stages.explain()
    assert "SCAN" not in small.stages.explain()
    assert large.problems == small.problems != []
    assert ranking(large).collect().equals(ranking(small).collect())

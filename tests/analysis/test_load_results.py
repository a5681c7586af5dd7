import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import load, ranking
from energyaware import rows
from energyaware.arrow import SCHEMAS
from energyaware.errors import InputError
from tests.analysis.builders import Lab, node_row, write


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
        schema = SCHEMAS[name]
        assert frame.collect_schema() == pl.DataFrame(schema.empty_table()).schema
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
    assert {name for name, value in row.items() if value is not None} == {"stage_id", "kind", "energy_j"}
    assert list(row) == SCHEMAS["stages"].names


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
    monkeypatch.setattr(sys.modules["analysis.load"], "_IN_MEMORY_BYTES", 0)
    large = lab.results()
    assert "SCAN" in large.stages.explain()
    assert "SCAN" not in small.stages.explain()
    assert large.problems == small.problems != []
    assert ranking(large).collect().equals(ranking(small).collect())

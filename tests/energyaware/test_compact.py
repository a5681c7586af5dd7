"""Merging files changes no row that a reader sees."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from analysis import load, ranking, status
from energyaware.arrow import SCHEMAS
from energyaware.compact import compact
from energyaware.files import open_files
from energyaware.rows import COMPACTED, KEYS, SCHEMA_VERSION, not_of, reading_order
from tests.analysis.builders import Lab, window, write
from tests.energyaware.compacted import allowed, files, merged, seen, singles, sweep

pytest_plugins = "tests.s3"


def test_a_reader_sees_the_same_rows_in_fewer_files(tmp_path):
    sweep(tmp_path)
    before, ranked, count = seen(tmp_path), ranking(load(tmp_path)).collect(), len(files(tmp_path))
    done = compact(open_files(tmp_path), allowed)
    assert seen(tmp_path) == before
    assert_frame_equal(ranking(load(tmp_path)).collect(), ranked)  # products of floats differ in their last digit
    assert load(tmp_path).problems == done.left == []
    assert [name.rpartition("/")[0] for name in files(tmp_path)] == [
        *["attempts", "energy", "epochs", "nodes", "quality", "stages/finetune", "stages/inference"],
    ]
    assert (done.files_before, done.files_after) == (count, 7)
    assert done.rows == sum(len(rows) for name, rows in before.items() if name != "plan")
    assert done.line() == f"{count} files are 7 now, {done.rows} rows merged"


def test_merged_files_are_of_bounded_size_and_have_the_tables_schema(tmp_path):
    sweep(tmp_path, stages=20)
    before = seen(tmp_path)
    compact(open_files(tmp_path), allowed, rows_per_file=5)
    assert seen(tmp_path) == before
    assert singles(tmp_path) == []
    assert len(merged(tmp_path)) > 15
    for name in merged(tmp_path):
        table = pq.read_table(tmp_path / name)
        assert table.num_rows <= 6
        assert table.schema.equals(SCHEMAS[name.partition("/")[0]])


def test_merged_files_with_a_figure_for_each_example_are_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setattr("energyaware.compact.BYTES_PER_FILE", 40_000)

    def add(numbers: range) -> None:
        for number in numbers:
            row = {"stage_id": f"s{number}", "attempt": 1, "task": "t", "metric": "m", "per_example": [0.5] * 1000}
            write(tmp_path / "quality" / f"s{number}-1.parquet", "quality", row)

    def rows() -> list[int]:
        return [pq.read_metadata(tmp_path / name).num_rows for name in merged(tmp_path)]

    add(range(12))
    compact(open_files(tmp_path), allowed)
    assert (rows(), singles(tmp_path)) == ([5, 5, 2], [])
    add(range(12, 14))
    compact(open_files(tmp_path), allowed)
    assert (rows(), singles(tmp_path)) == ([5, 5, 4], [])
    add(range(14, 15))
    compact(open_files(tmp_path), allowed)
    assert (rows(), singles(tmp_path)) == ([5, 5, 4, 1], []), "the third has more than half of what one may have"


def test_what_is_added_later_is_merged_with_small_merged_files(tmp_path):
    lab = sweep(tmp_path)
    compact(open_files(tmp_path), allowed)
    first = merged(tmp_path)
    assert compact(open_files(tmp_path), allowed).rows == 0
    assert merged(tmp_path) == first
    lab.inference("new", precision="new")
    before = seen(tmp_path)
    compact(open_files(tmp_path), allowed)
    assert seen(tmp_path) == before
    assert singles(tmp_path) == []
    assert len(merged(tmp_path)) == len(first)
    assert len(set(first) & set(merged(tmp_path))) == 5  # all but those of inferences and of quality


def test_a_file_of_its_own_counts_over_a_merged_one_and_a_newer_merged_one_over_an_older(tmp_path):
    lab = sweep(tmp_path)
    for energy_j in (1.0, 2.0, 3.0):
        row = {"stage_id": "i0", "attempt": 1, "window": "decode", "energy_j": energy_j, "kept": energy_j == 3.0}
        lab.energy("i0", row)
        before = seen(tmp_path)
        (decoded,) = [row for row in before["energy"] if (row["stage_id"], row["window"]) == ("i0", "decode")]
        assert (decoded["energy_j"], decoded["kept"]) == (energy_j, energy_j == 3.0)
        compact(open_files(tmp_path), allowed, rows_per_file=4)  # too small for any to be merged again
        assert seen(tmp_path) == before


def test_a_clock_that_was_put_back_does_not_bring_back_older_rows(tmp_path):
    lab = sweep(tmp_path)
    compact(open_files(tmp_path), allowed)
    ahead = datetime.now(UTC) + timedelta(days=400)
    (name,) = (tmp_path / "attempts").iterdir()
    name.rename(name.with_name(f"{COMPACTED}{ahead:%Y%m%dT%H%M%S%fZ}-abcdef01.parquet"))
    lab.attempt("i0", "finished", energy_j=77.0)
    before = seen(tmp_path)
    compact(open_files(tmp_path), allowed, rows_per_file=2)
    assert seen(tmp_path) == before
    assert len(list((tmp_path / "attempts").iterdir())) == 2


def test_older_schemas_are_merged_and_read_the_same(tmp_path):
    lab = sweep(tmp_path)
    for version, since in [
        (2, ["energy_kind", "energy_other_j", "marks", "carried_attempts"]),
        (3, ["carried_attempts"]),
    ]:
        name = lab.inference(f"v{version}", precision=f"v{version}", energy=4.0)
        file = tmp_path / "stages" / "inference" / f"{name}.parquet"
        older = pq.read_table(file).drop_columns(since)
        versions = pa.array([version] * older.num_rows)
        pq.write_table(older.set_column(older.column_names.index("schema_version"), "schema_version", versions), file)
    pq.write_table(
        pa.table({"stage_id": ["old"], "kind": ["inference"], "energy_j": [7], "marks": pa.nulls(1)}),
        tmp_path / "stages" / "inference" / "old.parquet",
    )
    before = seen(tmp_path)
    done = compact(open_files(tmp_path), allowed)
    assert (done.left, singles(tmp_path)) == ([], [])
    assert seen(tmp_path) == before


def foreign(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": [1]}), file)


def torn(file: Path) -> None:
    whole = write(file, "stages", {"stage_id": "torn", "kind": "inference"}).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("name", "spoil", "problem"),
    [
        ("stages/inference/z.parquet", lambda file: file.write_bytes(b""), "empty (0 bytes)"),
        ("stages/inference/z.parquet", torn, "torn, or not a Parquet file"),
        ("attempts/z.parquet", foreign, "not a table of ours"),
        ("attempts/notes.txt", lambda file: file.write_text("hello"), "not a file of the table attempts"),
        ("stages/z.parquet", torn, "not a file of the table stages"),
        ("energy/x.parquet/z.parquet", foreign, "not a file of the table energy"),
        ("quality/z.parquet", lambda file: write(file, "epochs", {"stage_id": "a"}), "a file of the table epochs"),
        (f"quality/{COMPACTED}z.parquet", lambda file: file.write_bytes(b"PAR1"), "torn, or not a Parquet file"),
        ("nodes/z.parquet", lambda file: write(file, "nodes", {"run": "r"}), "not a table of ours"),
        (
            "attempts/z.parquet",
            lambda file: write(file, "attempts", {"stage_id": "a", "schema_version": SCHEMA_VERSION + 1}),
            f"written under schema {SCHEMA_VERSION + 1}, newer than {SCHEMA_VERSION}",
        ),
        (
            "attempts/z.parquet",
            lambda file: pq.write_table(pa.table({"stage_id": ["a"], "weather": ["fine"]}), file),
            "has columns that this version does not know: weather",
        ),
        (
            "attempts/z.parquet",
            lambda file: pq.write_table(pa.table({"stage_id": ["a"], "energy_j": ["much"]}), file),
            "column energy_j is of type string, not double",
        ),
    ],
)  # fmt: skip
def test_what_is_not_ours_stays_where_it_is_and_is_named(tmp_path, name, spoil, problem):
    sweep(tmp_path)
    before = seen(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    spoil(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    with_it = seen(tmp_path)
    done = compact(open_files(tmp_path), allowed)
    assert done.left == [f"{name}: {problem}"]
    assert done.line().endswith(f"; left as they are: {name}: {problem}")
    assert (tmp_path / name).read_bytes() == content
    assert [each for each in singles(tmp_path) if each != name] == []
    assert seen(tmp_path) == with_it
    if "weather" not in problem:  # that one is read, but for the column
        assert with_it == before


writes = st.lists(
    st.one_of(
        st.just("compact"),
        st.tuples(st.integers(0, 3), st.integers(1, 2), st.sampled_from(["prefill", "decode"]), st.floats(0.5, 9)),
    ),
    max_size=25,
)


@given(writes, st.integers(1, 8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_those_written_last_whenever_it_is_compacted(tmp_path_factory, writes, rows_per_file):
    folder = tmp_path_factory.mktemp("results")
    lab = Lab(folder, planned=False)
    lab.inference("a", needs=None)
    expected = {}
    for each in writes:
        if each == "compact":
            compact(open_files(folder), allowed, rows_per_file=rows_per_file)
            continue
        stage, attempt, name, energy_j = each
        key = (f"s{stage}", attempt, name)
        expected[key] = energy_j
        row = window(stage_id=key[0], attempt=attempt, window=name, energy_j=energy_j)
        write(folder / "energy" / f"{key[0]}-{attempt}-{name}.parquet", "energy", row)
    columns = ["stage_id", "attempt", "window", "energy_j"]
    rows = load(folder).energy.select(columns).collect().rows()
    assert {row[:3]: row[3] for row in rows} == expected
    assert len(rows) == len(expected)


def test_results_in_object_storage_are_compacted_too(tmp_path, bucket):
    sweep(tmp_path / "there", stages=3)
    results = open_files(f"{bucket}/results")
    for folder in ("stages", "attempts", "energy", "quality", "nodes", "epochs"):
        results.put(tmp_path / "there" / folder, folder)
    results.write("plan.parquet", (tmp_path / "there" / "plan.parquet").read_bytes())
    before = seen(tmp_path / "there")
    done = compact(results, allowed)
    assert (done.files_after, done.left) == (7, [])
    back = tmp_path / "back" / "there"  # of the same name, which a sweep without a file has from its folder
    results.get("", back)
    assert seen(back) == before


def test_what_a_status_says_stays_the_same(tmp_path):
    sweep(tmp_path)
    before = status(load(tmp_path))
    compact(open_files(tmp_path), allowed)
    assert status(load(tmp_path)) == before
    assert (before.carried_energy_j, before.lost_energy_j) == (100.0, 50.0)


def test_every_table_has_keys_of_its_own_and_knows_its_files():
    for table, schema in SCHEMAS.items():
        assert set(KEYS[table]) <= set(schema.names)
        for other in SCHEMAS:
            expected = None if other == table else f"a file of the table {other}"
            assert not_of(table, SCHEMAS[other].names) == expected


def test_the_reading_order():
    names = [
        "stages/b.parquet",
        f"stages/x/{COMPACTED}2-f.parquet",
        "stages/a.parquet",
        f"stages/y/{COMPACTED}1-z.parquet",
    ]
    assert sorted(names, key=reading_order) == [names[3], names[1], names[2], names[0]]

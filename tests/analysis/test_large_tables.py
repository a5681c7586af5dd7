"""Rows of many files count once, whether a table is read into memory or is so large that it stays on disk."""

import sys
from datetime import timedelta

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from analysis import load, ranking
from energyaware.compact import compact
from energyaware.files import open_files
from energyaware.rows import KEYS
from tests.analysis.builders import START, Lab, tried, window, write


@pytest.fixture
def on_disk(monkeypatch):
    monkeypatch.setattr(sys.modules["analysis.tables"], "_IN_MEMORY_BYTES", 0)


@pytest.fixture(params=[0, 2**30], ids=["on disk", "in memory"])
def wherever(request, monkeypatch):
    monkeypatch.setattr(sys.modules["analysis.tables"], "_IN_MEMORY_BYTES", request.param)


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path / "results")
    lab.finetune()
    for number in range(6):
        lab.inference(f"i{number}", precision=f"p{number}", energy=1.0 + number)
        windows = [{"window": name, "component": part, "kept": True} for name in ("prefill", "decode") for part in "xy"]
        lab.energy(f"i{number}", *windows)
    lab.energy(None, {"window": "idle"}, attempt=None)
    return lab


def merged(lab, rows_per_file=10):
    lab.results()
    compact(open_files(lab.folder), lambda: None, rows_per_file)
    assert len(list((lab.folder / "energy").iterdir())) > 1


def energies(lab):
    return load(lab.folder).energy.select("stage_id", "window", "component", "energy_j").collect().sort(pl.all()).rows()


def test_merged_files_are_read_as_they_are(lab, on_disk):
    merged(lab)
    results = load(lab.folder)
    assert "UNION" not in results.energy.explain(), "nothing was set apart to be looked at"
    assert len(energies(lab)) == 25
    assert ranking(results).collect().height == 6


def test_an_attempt_that_was_written_anew_after_merging_counts_as_it_is_now(lab, wherever):
    merged(lab)
    before = energies(lab)
    lab.energy("i3", {"window": "decode", "component": "x", "energy_j": 7.0, "kept": True})
    after = energies(lab)
    assert set(before) - set(after) == {("i3", "decode", "x", 1.0)}
    assert set(after) - set(before) == {("i3", "decode", "x", 7.0)}
    assert len(after) == 25


def test_the_files_of_a_compaction_that_was_killed_count_once(lab, wherever):
    lab.results()
    single = {file: file.read_bytes() for file in (lab.folder / "energy").iterdir()}
    before = energies(lab)
    merged(lab)
    for file, content in single.items():
        file.write_bytes(content)
    assert energies(lab) == before


def test_a_file_that_holds_a_row_twice_counts_it_once(lab, wherever):
    row = window(stage_id="i0", attempt=1, window="decode", component="x", kept=True)
    write(lab.folder / "energy" / "z.parquet", "energy", row, row | {"energy_j": 3.0})
    assert len(energies(lab)) == 25
    assert ("i0", "decode", "x", 3.0) in energies(lab)


def test_rows_of_a_ledger_are_counted_over_by_those_of_files(lab, wherever):
    merged(lab)
    row = {"run": "r1", "stage_id": "i0", "attempt": 1, "component": "x", "energy_j": 99.0, "started_at": START}
    new = row | {"started_at": START + timedelta(hours=1), "energy_j": 5.0}
    lab.ledger(tried("i0"), energy=[row | {"window": "decode"}, new | {"window": "decode"}])
    assert sum(joules for *_, joules in energies(lab)) == 25 + 5


def test_rows_are_looked_at_key_by_key_on_disk_too_where_they_are_too_many(lab, on_disk, monkeypatch):
    before = energies(lab)
    monkeypatch.setattr(sys.modules["analysis.once"], "_AT_ONCE", 0)
    assert energies(lab) == before
    write(lab.folder / "energy" / "z.parquet", "energy", window(stage_id="i0", attempt=1, component="x", energy_j=3.0))
    assert len(energies(lab)) == 25
    assert ("i0", "decode", "x", 3.0) in energies(lab)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(
        st.tuples(
            st.booleans(),
            st.lists(
                st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(1, 2), st.sampled_from("xy")).map(
                    lambda row: row if row[0] else (None, None, row[2])
                ),
                min_size=1,
                max_size=8,
            ),
        ),
        min_size=1,
        max_size=6,
    ),
    at_once=st.sampled_from([0, 3, 1000]),
)
def test_whatever_files_hold_the_last_row_of_each_key_counts(tmp_path_factory, wherever, monkeypatch, files, at_once):
    """Merged files hold a key once, as compaction leaves them; other files, and several files, as they like."""
    monkeypatch.setattr(sys.modules["analysis.once"], "_AT_ONCE", at_once)
    folder = tmp_path_factory.mktemp("any")
    expected = {}
    names = []
    for number, (is_merged, rows) in enumerate(files):
        keys = list(dict.fromkeys(rows)) if is_merged else rows
        name = f"compacted-20260101T0000000000{number:02}Z-0.parquet" if is_merged else f"own-{number:02}.parquet"
        content = [
            window(stage_id=stage, attempt=attempt, component=component, energy_j=100.0 * number + place)
            for place, (stage, attempt, component) in enumerate(keys)
        ]
        write(folder / "energy" / name, "energy", *content)
        names.append((not is_merged, name, content))
    for _, _, content in sorted(names, key=lambda each: each[:2]):
        expected |= {(row["stage_id"], row["attempt"], row["component"]): row["energy_j"] for row in content}
    found = load(folder).energy.select("stage_id", "attempt", "component", "energy_j").collect().rows()
    assert sorted(found, key=str) == sorted(((*key, joules) for key, joules in expected.items()), key=str)


def test_a_page_that_cannot_be_read_is_found_when_the_folder_is_loaded(lab, wherever):
    file = lab.folder / "energy" / "i2-1.parquet"
    content = bytearray(file.read_bytes())
    column = pq.read_metadata(file).row_group(0).column(KEYS["energy"].index("stage_id"))
    content[column.data_page_offset : column.data_page_offset + 30] = bytes(30)
    file.write_bytes(content)
    results = lab.results()
    assert results.problems == ["energy/i2-1.parquet: torn, or not a Parquet file; skipped"]
    assert len(energies(lab)) == 21


def test_a_query_reads_nothing_but_the_columns_it_needs(lab, on_disk):
    results = lab.results()
    plan = results.energy.group_by("window").agg(pl.sum("energy_j")).explain()
    assert '"window", "energy_j"] 2/' in plan


def test_windows_are_the_energy_table_summed_over_nodes_and_devices(lab):
    lab.energy(
        "i9",
        {"component": "gpu", "device": "g1", "energy_j": 2.0, "duration_s": 4.0, "requests": 8, "repeat": 1},
        {"component": "gpu", "device": "g2", "energy_j": 3.0, "duration_s": 5.0, "requests": 8, "repeat": 1},
        {"component": "gpu", "device": "g1", "energy_j": 2.5, "duration_s": 4.5, "requests": 8, "repeat": 2},
        {"component": "cpu", "energy_j": None, "duration_s": 4.0, "requests": 8, "repeat": 1},
        {"component": "cpu", "energy_j": 1.0, "duration_s": None, "requests": 8, "repeat": 1, "node": "n2"},
        {"window": "other", "energy_j": 50.0},
    )
    rows = lab.results().windows.filter(pl.col("stage_id") == "i9").sort("component", "repeat").collect()
    columns = ["component", "repeat", "energy_j", "duration_s", "requests"]
    assert_frame_equal(
        rows.select(columns),
        pl.DataFrame(
            [("cpu", 1, None, None, 8), ("gpu", 1, 5.0, 5.0, 8), ("gpu", 2, 2.5, 4.5, 8)], columns, orient="row"
        ),
    )
    assert set(lab.results().windows.collect()["stage_id"]) == {*(f"i{number}" for number in range(6)), "i9"}

from datetime import timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analysis import load
from energyaware.errors import InputError
from tests.analysis.builders import START, Lab

LATER = {"finished_at": START + timedelta(days=1)}


@pytest.fixture
def first(tmp_path):
    lab = Lab(tmp_path / "first")
    lab.finetune(energy_j=1000.0)
    lab.inference("a", precision="A", energy=2.0, quality={"root_cause": {"accuracy": 0.8}})
    lab.inference("b", precision="B", energy=1.0)
    lab.attempt("a", "finished")
    lab.energy("a", {"window": "decode", "component": "cpu", "energy_j": 20.0, "kept": True})
    return lab


@pytest.fixture
def second(tmp_path):
    lab = Lab(tmp_path / "second")
    lab.inference("c", precision="C", energy=4.0, needs=None)
    return lab


def loaded(*labs):
    for lab in labs:
        lab.results()
    return load(*(lab.folder for lab in labs))


def precisions(results):
    return results.ranking().sort("precision").collect()["precision"].to_list()


def test_folders_that_share_no_stage_are_ranked_as_one(first, second):
    results = loaded(first, second)
    assert precisions(results) == ["A", "B", "C"]
    assert results.problems == []
    rows = results.query("SELECT sweep, COUNT(*) AS n FROM stages GROUP BY sweep ORDER BY sweep").collect().rows()
    assert rows == [("first", 3), ("second", 1)]


def test_every_table_of_one_folder_too_says_which_sweep_its_rows_belong_to(first):
    (first.folder / "sweep.yaml").parent.mkdir(exist_ok=True)
    (first.folder / "sweep.yaml").write_text("# {}\nname: tickets-2\nprecisions: [bf16]\n")
    results = loaded(first)
    for name, frame in results.tables().items():
        assert set(frame.collect()["sweep"]) <= {"tickets-2"}, name
    assert results.query("SELECT DISTINCT sweep FROM energy").collect().item() == "tickets-2"


@pytest.mark.parametrize("text", ["name: 'x.y'\n", 'name: "x.y"\n', "a: 1\nname: x.y\n", "name: x.y   \n"])
def test_the_sweep_is_named_as_its_file_names_it(second, text):
    second.results()
    (second.folder / "sweep.yaml").write_text(text)
    assert set(load(second.folder).stages.collect()["sweep"]) == {"x.y"}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"model: {name: inner}\n", b"name: a b\n"])
def test_a_sweep_file_without_a_name_leaves_the_folders(second, content):
    second.results()
    (second.folder / "sweep.yaml").write_bytes(content)
    assert set(load(second.folder).stages.collect()["sweep"]) == {"second"}


def test_two_sweeps_of_one_name_are_told_apart_by_their_place(first, second):
    for lab in (first, second):
        lab.results()
        (lab.folder / "sweep.yaml").write_text("name: s\n")
    results = load(first.folder, second.folder)
    assert set(results.stages.collect()["sweep"]) == {f"s ({first.folder})", f"s ({second.folder})"}


def test_a_folder_that_is_named_twice_or_none_at_all_is_an_input_error(first):
    first.results()
    with pytest.raises(InputError, match="named twice"):
        load(first.folder, first.folder)
    with pytest.raises(InputError, match="named twice"):
        load(first.folder, first.folder / ".." / "first")
    with pytest.raises(InputError, match="at least one"):
        load()


def test_of_a_stage_in_both_the_result_that_finished_last_is_ranked_and_sql_sees_both(first, second):
    second.inference("a", precision="A", energy=3.0, quality={"root_cause": {"accuracy": 0.5}}, **LATER)
    second.energy("a", {"window": "decode", "component": "gpu", "energy_j": 30.0, "kept": True})
    results = loaded(first, second)
    (row,) = results.ranking(requests=10).filter(pl.col("precision") == "A").collect().to_dicts()
    assert row["own_energy_j_per_request"] == 3.0
    assert row["rho"] == 0.5
    assert row["made_of"] == "gpu measured", "its energy rows are those of the same folder"
    assert results.problems == [
        "1 stage is in several folders, and the result that finished last counts: of a that of second"
    ]
    sql = "SELECT sweep, energy_j_per_request AS e FROM stages WHERE stage_id = 'a' ORDER BY sweep"
    assert results.query(sql).collect().rows() == [("first", 2.0), ("second", 3.0)]
    assert results.query("SELECT SUM(energy_j) AS j FROM energy").collect().item() == 50.0
    assert results.energy.collect()["energy_j"].to_list() == [30.0]


def test_the_order_of_the_folders_changes_nothing(first, second):
    second.inference("a", precision="A", energy=3.0, **LATER)
    one = loaded(first, second)
    other = loaded(second, first)
    assert_frame_equal(one.ranking().collect(), other.ranking().collect())
    assert one.problems == other.problems


def test_a_finished_result_counts_over_later_attempts_elsewhere(first, second):
    second.attempt("a", "failed", attempt=1, finished_at=START + timedelta(days=2))
    second.energy("a", {"window": "decode", "energy_j": 500.0})
    results = loaded(first, second)
    (row,) = results.ranking().filter(pl.col("precision") == "A").collect().to_dicts()
    assert (row["own_energy_j_per_request"], row["made_of"]) == (2.0, "cpu measured")
    assert results.attempts.filter(pl.col("stage_id") == "a").collect()["state"].to_list() == ["finished"]
    assert "of a that of first" in results.problems[0]


def test_what_no_plan_asks_for_any_more_is_not_ranked_and_what_one_asks_for_is(first, second, tmp_path):
    first.plan = [row for row in first.plan if row["stage_id"] != "b"]
    assert precisions(loaded(first, second)) == ["A", "C"]
    second.inference("b", precision="B", run=False)
    assert precisions(loaded(first, second)) == ["A", "B", "C"]


def test_a_folder_without_a_plan_has_all_its_stages_asked_for(first, second):
    second.planned = False
    assert precisions(loaded(first, second)) == ["A", "B", "C"]


def test_a_stage_that_is_planned_twice_is_listed_once(first, second):
    first.inference("d", precision="D", run=False)
    second.inference("d", precision="D", run=False)
    second.infeasible("d", "no such kernel")
    results = loaded(first, second)
    assert results.left_out().collect().select("precision", "state").rows() == [("D", "pending")]
    assert results.problems == []
    assert results.query("SELECT COUNT(*) AS n FROM plan WHERE stage_id = 'd'").collect().item() == 2


def test_problems_say_which_folder_they_are_in(first, second):
    (second.folder / "energy").mkdir(parents=True)
    (second.folder / "energy" / "x.parquet").write_bytes(b"")
    results = loaded(first, second)
    assert results.problems == [f"{second.folder}: energy/x.parquet: empty (0 bytes); skipped"]


def test_who_writes_to_which_folder_is_told(first, second):
    second.lease()
    results = loaded(first, second)
    assert results.held_by.startswith(f"{second.folder} by ann@node1, process 123")


def test_the_status_is_that_of_one_folder(first, second):
    with pytest.raises(InputError, match="status: is that of one results folder, not of 2"):
        loaded(first, second).status()
    assert loaded(first).status().counts["inference"]["finished"] == 2

"""Joules that only a ledger knows: of a run that is at work, and of one that was killed."""

import json
from pathlib import Path

import polars as pl
import pytest

from analysis import left_out, load, status
from energyaware.rows import SCHEMA_VERSION
from tests.analysis.builders import START, Lab, node_row, tried, window


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "results")
    lab.finetune("ft", energy_j=100.0)
    for name in ("a", "b"):
        lab.inference(name, precision=name, run=False)
    return lab


def spent(stage_id: str, energy_j: float | None, **more) -> dict:
    return window(stage_id=stage_id, attempt=1, energy_j=energy_j, **more)


def attempts(lab: Lab) -> dict[str, dict]:
    return {row["stage_id"]: row for row in lab.results().attempts.collect().to_dicts()}


def test_an_attempt_of_a_fresh_ledger_is_running(lab):
    energy = [spent("a", 7.0), spent("a", 3.0, component="dram", measured=False, marks=["short"])]
    lab.ledger(tried("a"), energy=energy, heartbeat_s=1000.0)
    row = attempts(lab)["a"]
    assert (row["state"], row["reason"], row["finished_at"], row["kept"]) == ("running", None, None, False)
    assert (row["energy_j"], row["energy_measured_j"], row["energy_estimated_j"]) == (10.0, 7.0, 3.0)
    assert (row["energy_kind"], row["measured"], row["marks"]) == ("mixed", False, ["decode: short"])
    assert (row["started_at"], row["workers"], row["nodes"], row["schema_version"]) == (
        START,
        1,
        ["n1"],
        SCHEMA_VERSION,
    )
    now = status(lab.results())
    assert (now.running_energy_j, now.useful_energy_j, now.lost_energy_j) == (10.0, 100.0, 0.0)
    assert now.counts["inference"]["running"] == 1
    left = {row["stage_id"]: (row["state"], row["reason"]) for row in left_out(lab.results()).collect().to_dicts()}
    assert left["a"] == ("running", "attempt 1 is running")


def test_an_attempt_of_an_old_ledger_was_interrupted_and_its_joules_are_lost(lab):
    file = lab.ledger(tried("a"), age_s=60.0, energy=[spent("a", 7.0), spent("a", 3.0, window="prefill")])
    row = attempts(lab)["a"]
    heartbeat = json.loads(file.read_text())["written_at"][:19].replace("T", " ")
    assert row["state"] == "interrupted"
    assert row["reason"] == f"its run ended without a word; last heartbeat {heartbeat} UTC"
    assert (row["energy_j"], row["energy_kind"], row["kept"]) == (10.0, "measured", False)
    assert row["duration_s"] == (row["finished_at"] - row["started_at"]).total_seconds() > 0
    now = status(lab.results())
    assert (now.lost_energy_j, now.running_energy_j, now.lost_attempts) == (10.0, 0.0, 1)
    assert now.left == 2


@pytest.mark.parametrize(
    ("age_s", "heartbeat_s", "state"),
    [
        (50.0, 1.0, "interrupted"),
        (50.0, 100.0, "running"),
        (250.0, 100.0, "running"),
        (350.0, 100.0, "interrupted"),
        (-3600.0, 1.0, "interrupted"),  # a clock that is an hour ahead tells nothing
    ],
)
def test_a_run_is_alive_for_three_heartbeats(lab, age_s, heartbeat_s, state):
    lab.ledger(tried("a"), age_s=age_s, heartbeat_s=heartbeat_s)
    assert attempts(lab)["a"]["state"] == state


def test_an_attempt_on_several_nodes_is_one_row_with_the_joules_of_all(lab):
    about = tried("a", nodes=["n1", "n2"])
    lab.ledger(about, node="n1", energy=[spent("a", 7.0)], heartbeat_s=1000.0)
    lab.ledger(about, node="n2", energy=[spent("a", 5.0)], age_s=60.0)
    row = attempts(lab)["a"]
    assert (row["state"], row["energy_j"], row["nodes"]) == ("running", 12.0, ["n1", "n2"])


def test_a_sum_with_an_unknown_part_is_unknown(lab):
    energy = [spent("a", None), spent("a", 3.0, component="dram"), spent("b", 5.0)]
    lab.ledger(tried("a"), tried("b", nodes=["n1", "n2"]), energy=energy)
    rows = attempts(lab)
    assert [rows[name]["energy_j"] for name in "ab"] == [None, None]
    assert status(lab.results()).unknown_energy_attempts == 2


def test_what_the_tables_know_already_counts_once(lab):
    row = {"window": "decode", "energy_j": 9.0, "kept": True}
    lab.energy("a", row)
    lab.inference("a", precision="a", energy=0.9)
    lab.attempt("b", "failed", energy_j=4.0)
    idle = window(window="idle", energy_j=2.0)
    lab.energy(None, {"window": "idle", "energy_j": 3.0}, attempt=None)
    lab.node("n1", "cpu", 12.0, 9.0, 3.0, 0.0)
    nodes = [node_row("n1", "cpu", 11.0, 9.0, 2.0, 0.0)]
    lab.ledger(tried("a"), tried("b"), energy=[spent("a", 8.0), idle], nodes=nodes, age_s=60.0)
    results = lab.results()
    assert sorted(results.energy.collect()["energy_j"]) == [3.0, 9.0]
    assert results.nodes.collect()["energy_j"].to_list() == [12.0]
    assert results.attempts.collect()["state"].to_list() == ["failed"]
    now = status(results)
    assert (now.useful_energy_j, now.lost_energy_j, now.idle_energy_j) == (109.0, 4.0, 3.0)


def test_windows_that_were_written_before_the_run_was_killed_are_added_to_those_of_the_ledger(lab):
    lab.energy("a", {"window": "prefill", "energy_j": 4.0}, {"window": "decode", "energy_j": 9.0})
    lab.ledger(tried("a"), energy=[spent("a", 8.0), spent("a", 1.0, window="other")], age_s=60.0)
    row = attempts(lab)["a"]
    assert (row["energy_j"], row["energy_other_j"]) == (4.0 + 9.0, 1.0)


def test_an_attempt_that_was_killed_while_it_loaded_lost_the_joules_of_loading(lab):
    lab.ledger(tried("a"), energy=[spent("a", 6.0, window="other")], age_s=60.0)
    row = attempts(lab)["a"]
    assert (row["energy_j"], row["energy_measured_j"], row["energy_other_j"]) == (0.0, 0.0, 6.0)
    assert status(lab.results()).lost_energy_j == 6.0


def test_the_nodes_own_rows_are_in_the_tables(lab):
    idle = window(window="idle", energy_j=2.0)
    lab.ledger(energy=[idle], nodes=[node_row("n1", "cpu", 11, 9.0, 2.0, 0.0)])
    results = lab.results()
    assert results.energy.select("window", "energy_j", "started_at").collect().rows() == [("idle", 2.0, START)]
    assert [node.energy_j for node in status(results).nodes] == [11.0]


def test_a_folder_with_a_ledger_alone_is_a_folder_of_results(tmp_path):
    lab = Lab(tmp_path, planned=False)
    lab.ledger(tried("a", settings='{"precision":"nf4","seed":3}'), energy=[spent("a", 7.0)], age_s=60.0)
    now = status(load(tmp_path))
    assert (now.lost_energy_j, now.counts["inference"]["interrupted"]) == (7.0, 1)


def broken(**change) -> str:
    content = {"schema_version": SCHEMA_VERSION, "run": "r", "node": "n", "written_at": START.isoformat()}
    content |= {"heartbeat_s": 2.0, "attempts": [], "energy": [], "nodes": []} | change
    return json.dumps({name: value for name, value in content.items() if value is not ...}, default=str)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "torn, or not JSON"),
        ('{"schema_version": 3, "run": "r1", "att', "torn, or not JSON"),
        ("\x00\xff", "torn, or not JSON"),
        ("[1, 2]", "not a ledger of ours"),
        ('{"name": "package", "version": 1}', "not a ledger of ours"),
        (json.dumps({"schema_version": 99}), f"written under schema 99, newer than {SCHEMA_VERSION}"),
        (json.dumps({"schema_version": "x"}), "not a ledger of ours"),
        *((broken(**change), "not a ledger of ours") for change in (
            {"written_at": "yesterday"},
            {"heartbeat_s": None},
            {"energy": 3},
            {"energy": ["x"]},
            {"energy": [{"energy_j": "much"}]},
            {"energy": [{"started_at": 12}]},
            {"nodes": {"a": 1}},
            {"attempts": [None]},
        )),
    ],
)  # fmt: skip
def test_a_ledger_that_cannot_be_read_is_named_and_harmless(lab, text, problem):
    lab.ledger(tried("a"), energy=[spent("a", 7.0)], age_s=60.0)
    (lab.folder / "ledger" / "r9-n1.json").write_text(text, encoding="latin-1")
    results = lab.results()
    assert results.problems == [f"ledger/r9-n1.json: {problem}; skipped"]
    assert status(results).lost_energy_j == 7.0


def test_a_ledger_that_is_being_written_is_not_seen(lab):
    file = lab.ledger(tried("a"), age_s=60.0)
    file.rename(file.with_name(f".{file.name}.new"))
    results = lab.results()
    assert results.problems == []
    assert results.attempts.filter(pl.col("stage_id") == "a").collect().is_empty()

"""Ledgers that a killed run left become lost attempts and the nodes' own rows; nothing counts twice."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from energyaware.checkpoint_store import Checkpoints, Committed, Start
from energyaware.energy.ledger_file import read_ledger, set_aside, write_ledger
from energyaware.store import Store
from sweep.recover import forget_checkpoints, saved_rows, take_over

BEGAN = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
LAST = BEGAN + timedelta(seconds=90)


pytest_plugins = "tests.s3"


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path):
    return Store(tmp_path if request.param == "folder" else request.getfixturevalue("bucket") + "/results")


def energy_row(stage, window="train", energy_j=100.0, **columns):
    return {
        "run": "r1", "node": "n1", "stage_id": stage, "attempt": stage and 1, "window": window, "epoch": None,
        "repeat": None, "requests": None, "component": "gpu", "device": "GPU-a", "energy_j": energy_j,
        "energy_net_j": None, "measured": True, "carbon_g": None, "cost": None, "marks": [], "kept": stage is None,
        "started_at": BEGAN,
    } | columns  # fmt: skip


def leave(store, *stages, run="r1", node="n1", last=LAST):
    """A ledger as a meter that was killed leaves it."""
    content = {
        "run": run, "sweep": "s", "node": node, "written_at": last, "heartbeat_s": 2.0,
        "attempts": [
            {"stage_id": stage, "attempt": 1, "kind": "finetune", "started_at": BEGAN, "workers": 2, "nodes": ["n1"],
             "settings": "{}"} for stage in stages
        ],
        "energy": [
            *[energy_row(stage, window, run=run, node=node) for stage in stages for window in ("train", "other")],
            energy_row(None, "idle", 7.0, run=run, node=node),
        ],
        "nodes": [
            {"run": run, "node": node, "component": "gpu", "device": "GPU-a", "source": "nvml", "measured": True,
             "energy_j": 207.0, "stages_j": 200.0, "idle_j": 7.0, "unattributed_j": 0.0, "difference": 0.0,
             "reason": None, "duration_s": 90.0, "idle_power_w": 60.0, "idle_reason": None, "idle_context": False,
             "started_at": BEGAN}
        ],
    }  # fmt: skip
    write_ledger(store.ledger(run, node), content)
    return content


def checkpoint(store, *attempts):
    """A committed one of the stage `aaa`, after 8 steps that these attempts have taken."""
    checkpoints = Checkpoints(store.files, "aaa")
    store.files.write(f"{checkpoints.folder(8)}/state.pt", bytes(10))
    start = Start("aaa", "masks", world_size=1, zero_stage=0, versions={})
    checkpoints.commit(
        Committed(start, 8, 1, list(attempts), epochs=[], loss_sums=[0.5], overflows=0, files={"state.pt": 10})
    )
    return checkpoints


def table(store, name):
    contents = (store.files.read(file) for file in store.files.names(name))
    return [row for content in contents for row in pq.read_table(pa.BufferReader(content)).to_pylist()]


def test_attempts_without_a_row_are_recorded_as_interrupted_with_their_joules_as_lost(store):
    leave(store, "aaa", "bbb")
    lost = take_over(store)

    attempts = table(store, "attempts")
    assert {row["stage_id"] for row in lost} == {"aaa", "bbb"}
    for row in attempts:
        assert row.items() >= {
            "state": "interrupted", "kept": False, "energy_j": 100, "energy_other_j": 100, "energy_kind": "measured",
            "duration_s": 90.0, "kind": "finetune", "workers": 2,
            "reason": "the run ended without a word; last heartbeat 2026-05-01 12:01:30 UTC",
        }.items()  # fmt: skip
    energy = table(store, "energy")
    assert len(energy) == 5
    assert sum(row["energy_j"] for row in energy) == 407
    assert [row["energy_j"] for row in table(store, "nodes")] == [207]
    assert store.ledgers() == []
    assert store.attempts() == {"aaa": 1, "bbb": 1}


def test_an_attempt_that_left_a_checkpoint_is_recorded_with_what_another_can_go_on_from(store):
    content = leave(store, "aaa")
    trained = [energy_row("aaa", energy_j=joules, from_step=step) for step, joules in [(0, 30.0), (4, 50.0), (8, 20.0)]]
    write_ledger(store.ledger("r1", "n1"), content | {"energy": trained})
    checkpoint(store, [1, 0, 8])
    (lost,) = take_over(store)
    assert (lost["from_step"], lost["checkpoint_step"], lost["energy_carried_j"]) == (0, 8, 80.0)
    assert (lost["state"], lost["energy_j"], lost["kept"]) == ("interrupted", 100.0, False)


def test_a_finished_stage_keeps_only_the_checkpoint_of_a_run_that_measures_it_again(store):
    store.commit_stage({"stage_id": "aaa", "kind": "finetune", "attempt": 2})
    for attempts in ([[3, 0, 8]], [[3, 0, 4], [4, 4, 8]]):
        left = checkpoint(store, *attempts)
        forget_checkpoints(store)
        assert left.newest().attempts == attempts

    for attempts in ([[2, 0, 8]], [[1, 0, 4], [2, 4, 8]], [[2, 0, 4], [3, 4, 8]]):
        checkpoint(store, *attempts)
        forget_checkpoints(store)
        assert store.files.names("checkpoints") == [], "attempts of the result, or gone on from them"

    left = checkpoint(store, [3, 0, 8])
    store.commit_stage({"stage_id": "aaa", "kind": "finetune", "attempt": 4}, replace=True)
    forget_checkpoints(store)
    assert left.newest() is None


def test_checkpoints_of_a_stage_without_a_result_stay_and_those_that_never_counted_go_with_its_result(store):
    left = checkpoint(store, [1, 0, 8])
    forget_checkpoints(store)
    assert left.newest()
    store.files.remove(f"{left.folder(8)}/COMMIT")
    store.commit_stage({"stage_id": "aaa", "kind": "finetune", "attempt": 1})
    forget_checkpoints(store)
    assert store.files.names("checkpoints") == []


def test_an_attempt_that_has_a_row_is_not_recorded_again(store):
    leave(store, "aaa")
    store.write_rows("attempts", "aaa-1", [{"stage_id": "aaa", "attempt": 1, "state": "finished", "kept": True}])

    assert take_over(store) == []
    assert [row["state"] for row in table(store, "attempts")] == ["finished"]
    assert [row["window"] for row in table(store, "energy")] == ["idle"], "its windows were written with its row"


def test_an_attempt_over_two_nodes_is_one_row_with_the_joules_of_both(store):
    leave(store, "aaa")
    leave(store, "aaa", node="n2", last=LAST + timedelta(seconds=1))
    (row,) = take_over(store)
    assert (row["energy_j"], row["duration_s"]) == (200, 91)


def test_the_last_words_of_a_meter_count_more_than_its_file(store):
    content = leave(store, "aaa")
    spoken = content | {"attempts": [], "energy": [energy_row(None, "idle", 9.0)]}

    assert take_over(store, [spoken]) == []
    assert [row["energy_j"] for row in table(store, "energy")] == [9]
    assert store.ledgers() == []


def test_last_words_without_a_file_are_written_too(store):
    spoken = leave(store)
    store.ledger("r1", "n1").remove()
    take_over(store, [spoken])
    assert [row["window"] for row in table(store, "energy")] == ["idle"]


def test_a_file_that_is_no_ledger_is_left_where_it_is(store):
    leave(store, "aaa")
    torn = store.ledger("r0", "n1")
    store.files.write(torn.name, b'{"run": "r0", "node"')

    assert len(take_over(store)) == 1
    assert store.ledgers() == [torn]


def test_what_dead_meters_of_a_node_had_saved_is_found_by_attempt(store):
    leave(store, "aaa", "bbb")
    leave(store, "aaa", node="n2")
    assert {row["window"] for row in saved_rows(store, ("aaa", 1), "n1")} == {"train", "other"}
    assert saved_rows(store, ("aaa", 2), "n1") == []


def test_ledgers_of_one_node_that_were_set_aside_are_all_written_whenever_the_taking_over_is_killed(store):
    for minute in range(3):
        leave(store, last=LAST + timedelta(minutes=minute))
        set_aside(store.ledger("r1", "n1"))
    assert len(store.ledgers()) == 3
    take_over(store)
    assert len(table(store, "nodes")) == 3

    leave(store, last=LAST + timedelta(minutes=2))  # as if killed when the others were removed
    take_over(store)
    assert len(table(store, "nodes")) == 3
    assert len(table(store, "energy")) == 3
    assert store.ledgers() == []


def test_last_words_are_not_those_of_the_meters_before(store):
    leave(store, last=LAST - timedelta(minutes=1))
    set_aside(store.ledger("r1", "n1"))
    content = leave(store)
    take_over(store, [content | {"energy": [energy_row(None, "idle", 9.0, started_at=LAST)]}])
    assert sorted(row["energy_j"] for row in table(store, "energy")) == [7, 9]


def test_a_ledger_that_is_being_set_aside_counts_once(store):
    content = leave(store, "aaa")
    place = store.ledger("r1", "n1")
    store.files.create("ledger/r1-n1-1.json", store.files.read(place.name))  # as if killed before the old name went
    assert len(saved_rows(store, ("aaa", 1), "n1")) == 2

    assert set_aside(place)["energy"] == read_ledger(store.ledgers()[0])["energy"] == content["energy"]
    assert [ledger.name for ledger in store.ledgers()] == ["ledger/r1-n1-1.json"]
    assert set_aside(place) is None

    store.files.create(place.name, store.files.read("ledger/r1-n1-1.json"))
    (row,) = take_over(store)
    assert row["energy_j"] == 100
    assert store.ledgers() == []

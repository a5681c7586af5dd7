"""Joules of an interrupted attempt that its successor went on from are part of the result, and no others."""

import json

import pyarrow.parquet as pq
import pytest

from energyaware.stage import Carried
from energyaware.store import Store
from sweep.carry import carry, progress, read_rows
from sweep.totals import Totals
from tests.analysis.builders import START

STAGE = "0123456789ab"


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.create()
    return store


def window(name, from_step, energy_j, attempt=1, **more):
    return {
        "stage_id": STAGE, "attempt": attempt, "window": name, "from_step": from_step, "energy_j": energy_j,
        "energy_net_j": None, "carbon_g": None, "cost": None, "measured": True, "marks": [], "kept": False,
        "node": "n", "component": "cpu", "duration_s": 1.0, "epoch": 1, "started_at": START,
    } | more  # fmt: skip


FIRST = [
    window("prune", None, 1.0), window("train", 0, 10.0), window("checkpoint", None, 2.0), window("train", 4, 20.0),
    window("evaluate", 8, 3.0), window("checkpoint", None, 2.0), window("train", 8, 40.0), window("other", None, 5.0),
]  # fmt: skip


def record(store, number, energy, **more):
    row = {"stage_id": STAGE, "attempt": number, "state": "interrupted", "kept": False, "started_at": START}
    store.write_rows("energy", f"{STAGE}-{number}", energy)
    store.write_rows("attempts", f"{STAGE}-{number}", [row | more])


def kept(store, number):
    return [(r["window"], r["from_step"]) for r in read_rows(store, "energy", STAGE, number) if r["kept"]]


def test_training_up_to_the_checkpoint_is_carried_with_its_evaluation(store):
    record(store, 1, FIRST)
    rows = carry(store, STAGE, [Carried(1, 0, 8)], attempt=2)
    assert Totals.of(rows).energy_j == 33.0
    assert kept(store, 1) == [("train", 0), ("train", 4), ("evaluate", 8)]
    (told,) = read_rows(store, "attempts", STAGE, 1)
    assert (told["energy_carried_j"], told["kept"], told["state"]) == (33.0, False, "interrupted")
    assert carry(store, STAGE, [Carried(1, 0, 8)], attempt=2) == rows, "done again, it says the same"


def test_each_of_several_attempts_gives_the_steps_that_are_its_own(store):
    record(store, 1, FIRST)
    record(store, 2, [window("train", 4, 21.0, attempt=2), window("train", 8, 41.0, attempt=2)])
    rows = carry(store, STAGE, [Carried(1, 0, 4), Carried(2, 4, 8)], attempt=3)
    assert [row["energy_j"] for row in rows] == [10.0, 21.0]


def test_what_was_thought_to_be_carried_and_was_not_is_lost(store):
    record(store, 1, [row | {"kept": True} for row in FIRST], energy_carried_j=33.0)
    assert carry(store, STAGE, [], attempt=2) == []
    assert kept(store, 1) == []
    assert read_rows(store, "attempts", STAGE, 1)[0]["energy_carried_j"] is None


def test_an_unknown_part_makes_what_is_carried_unknown(store):
    record(store, 1, [window("train", 0, None, reason="reset"), window("train", 4, 20.0)])
    assert Totals.of(carry(store, STAGE, [Carried(1, 0, 8)], attempt=2)).energy_j is None


def test_rows_are_found_where_compaction_has_put_them(store):
    record(store, 1, FIRST)
    for table in ("energy", "attempts"):
        path = store.root / table / f"{STAGE}-1.parquet"
        pq.write_table(pq.read_table(path), path.with_name("compacted-x.parquet"))
        path.unlink()
    assert Totals.of(carry(store, STAGE, [Carried(1, 0, 4)], attempt=2)).energy_j == 10.0
    assert kept(store, 1) == [("train", 0)]


def test_an_attempt_without_checkpoints_has_come_nowhere(store):
    assert progress(store, STAGE, 1).columns(FIRST) == {
        "from_step": None, "checkpoint_step": None, "energy_carried_j": None
    }  # fmt: skip
    assert json.dumps(progress(store, STAGE, 1).columns([]))

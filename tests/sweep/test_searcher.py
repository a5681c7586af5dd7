"""Which attempt runs when, without a cluster: the searcher as Ray Tune calls it."""

import time

import pytest

from energyaware.precision import Hardware
from sweep.failures import Policy
from sweep.plan import make_plan
from sweep.schedule import StageSearcher
from sweep.sweep_file import load
from sweep.tries import Tries

FINISHED = {"state": "finished", "failure": None}


def failed(failure, state="failed"):
    return {"state": state, "reason": "as the test wants it", "failure": failure}


@pytest.fixture
def searcher(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("precisions: [fp32]\nprunings: [none, magnitude-50%]\nfinetune: {batch_size: 8}")
    stages = list(make_plan(load(path), Hardware("cpu", None)))
    events = []
    searcher = StageSearcher(
        [Tries(stage, 1) for stage in stages],
        Policy(retries=1, backoff_s=0.3),
        1,
        lambda event, stage, ended: events.append((event, stage.spec.kind)),
        lambda stage, attempt: failed("lost node", "interrupted"),
    )
    searcher.events = events
    return searcher


def test_what_needs_a_fine_tuning_waits_for_it_and_then_all_of_it_runs(searcher):
    first = searcher.suggest("t1")
    assert (first["attempt"], first["micro_batch_size"]) == (1, None)
    assert searcher.suggest("t2") is None, "both inferences need the fine-tuning"
    searcher.on_trial_complete("t1", FINISHED)
    assert isinstance(searcher.suggest("t2"), dict)
    assert isinstance(searcher.suggest("t3"), dict)
    assert searcher.suggest("t4") is None, "what runs may have to be tried again"
    searcher.on_trial_complete("t2", FINISHED)
    searcher.on_trial_complete("t3", FINISHED)
    assert searcher.suggest("t4") == "FINISHED"


def test_an_error_is_tried_again_after_a_while_under_the_next_number(searcher):
    stage_id = searcher.suggest("t1")["stage_id"]
    searcher.on_trial_complete("t1", failed("error"))
    assert searcher.suggest("t2") is None
    time.sleep(0.35)
    again = searcher.suggest("t2")
    assert (again["stage_id"], again["attempt"]) == (stage_id, 2)
    searcher.on_trial_complete("t2", failed("error"))
    assert searcher.suggest("t3") == "FINISHED", "its inferences are blocked"
    assert searcher.events == [
        ("started", "finetune"), ("again", "finetune"), ("started", "finetune"), ("ended", "finetune"),
        ("blocked", "inference"), ("blocked", "inference"),
    ]  # fmt: skip


def test_memory_is_tried_again_at_once_with_less_until_it_is_an_end(searcher):
    asked = [searcher.suggest("t0")]
    for number in range(1, 4):
        searcher.on_trial_complete(f"t{number - 1}", failed("out of memory", "oom"))
        asked.append(searcher.suggest(f"t{number}"))
    assert [config["micro_batch_size"] for config in asked] == [None, 4, 2, 1]
    searcher.on_trial_complete("t3", failed("out of memory", "oom"))
    assert searcher.suggest("t4") == "FINISHED"


def test_an_actor_that_died_with_its_node_is_tried_again(searcher):
    searcher.suggest("t1")
    searcher.on_trial_complete("t1", None, error=True)
    time.sleep(0.35)
    assert searcher.suggest("t2")["attempt"] == 2


def test_once_stopping_nothing_more_is_handed_out_or_blocked(searcher):
    searcher.suggest("t1")
    searcher.stop()
    searcher.on_trial_complete("t1", failed("stopped", "interrupted"))
    assert searcher.suggest("t2") == "FINISHED"
    assert searcher.events == [("started", "finetune"), ("ended", "finetune")]


def test_results_that_cannot_be_written_stop_the_run(searcher):
    searcher.suggest("t1")
    searcher.on_trial_complete("t1", failed("storage", "interrupted"))
    assert searcher.stopping
    assert searcher.stopped_by == "as the test wants it"
    assert searcher.suggest("t2") == "FINISHED"

"""Which attempt runs when, without a cluster: the searcher as Ray Tune calls it."""

import time

import pytest
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial

from cluster.node import Node
from energyaware.precision import Hardware
from sweep.failures import Policy
from sweep.needs import settle
from sweep.places import Places, numbered
from sweep.plan import make_plan
from sweep.schedule import StageSearcher, _Placer
from sweep.sweep_file import load
from sweep.tries import Tries

FINISHED = {"state": "finished", "failure": None}


def failed(failure, state="failed"):
    return {"state": state, "reason": "as the test wants it", "failure": failure}


def node(name, cpus=8):
    return Node(f"id-{name}", name, "10.0.0.1", cpus, 0, 2**33)


class Cluster:
    """Machines that come and go."""

    def __init__(self, *nodes):
        self.nodes = nodes

    def __call__(self):
        return self.nodes


@pytest.fixture
def cluster():
    return Cluster(node("host1"))


@pytest.fixture
def searcher_of(tmp_path, cluster):
    def searcher_of(text, *, wait_s=60.0, first=lambda stage: True, **more):
        path = tmp_path / "s.yaml"
        path.write_text(text)
        sweep = load(path)
        stages = list(make_plan(sweep, Hardware("cpu", None)))
        events, told = [], []
        searcher = StageSearcher(
            [Tries(stage, 1) for stage in stages if first(stage)],
            Policy(retries=1, backoff_s=0.3),
            Places(settle(sweep.resources, 0, cluster.nodes, path), cluster),
            wait_s,
            lambda event, stage, ended: events.append((event, stage.spec.kind)),
            told.append,
            lambda stage, attempt: failed("lost node", "interrupted"),
            **more,
        )
        searcher.events, searcher.told, searcher.stages = events, told, stages
        searcher.later = [Tries(stage, 1) for stage in stages if not first(stage)]
        return searcher

    return searcher_of


SWEEP = "precisions: [fp32]\nprunings: [none, magnitude-50%]\nfinetune: {batch_size: 8}"


@pytest.fixture
def searcher(searcher_of):
    searcher = searcher_of(SWEEP)

    def suggest(trial_id):
        """As where there is room for whatever is handed out."""
        asked = StageSearcher.suggest(searcher, trial_id)
        searcher.has_workers([trial_id])
        return asked

    searcher.suggest = suggest
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


def test_of_each_size_as_many_as_fit_are_started_and_then_one_waits_for_room(searcher_of):
    text = "precisions: [fp32, bf16]\nprunings: [none, magnitude-50%]\nresources: {workers: 8, inference_workers: 1}"
    searcher = searcher_of(text)
    assert searcher.suggest("t1")["shape"] == [8]
    assert searcher.suggest("t2") is None, "the machine is full, and one that waits is enough"
    searcher.has_workers(["t1"])
    assert searcher.suggest("t2")["shape"] == [8]
    searcher.on_trial_complete("t1", FINISHED)
    assert searcher.suggest("t3")["shape"] == [1], "the second fine-tuning waits; inferences of the first do not"
    assert searcher.suggest("t4")["shape"] == [1], "there is room for both"
    assert searcher.suggest("t5") is None
    assert len(searcher.needs) == 2
    assert searcher.most_pending == 1 + 1 + 8 + 1


def test_stages_are_handed_out_with_the_place_that_they_go_to(searcher, cluster):
    place = numbered(searcher.suggest("t1")["place"])
    assert (place.shape, place.node_ids) == ((1,), ("id-host1",))


def test_a_trial_that_waits_is_taken_back_when_machines_join_and_goes_there_too(searcher_of, cluster):
    searcher = searcher_of(SWEEP)
    first = searcher.suggest("t1")
    assert searcher.to_withdraw() == []
    cluster.nodes = (*cluster.nodes, node("host2"))
    assert searcher.to_withdraw() == ["t1"]
    searcher.on_trial_complete("t1")
    again = searcher.suggest("t2")
    assert (again["stage_id"], again["attempt"]) == (first["stage_id"], 1), "it was never begun"
    assert numbered(again["place"]).node_ids == ("id-host1", "id-host2")
    searcher.has_workers(["t2"])
    cluster.nodes = (*cluster.nodes, node("host3"))
    assert searcher.to_withdraw() == [], "what runs is left alone"


def test_when_no_trial_fits_any_more_the_user_is_told_and_the_run_stops_after_a_while(searcher_of, cluster):
    searcher = searcher_of(SWEEP, wait_s=0.4)
    searcher.suggest("t1")
    cluster.nodes = ()
    assert searcher.to_withdraw() == ["t1"]
    searcher.on_trial_complete("t1")
    assert searcher.suggest("t2") is None
    assert searcher.suggest("t2") is None
    (told,) = searcher.told
    assert told.startswith(
        "waiting for machines: needs 1 worker with 1 CPU for one trial; not even one worker fits (no"
    )
    assert not searcher.stopping
    time.sleep(0.5)
    assert searcher.suggest("t2") == "FINISHED"
    assert "no machines for" in searcher.stopped_by
    assert searcher.waiting == 3


def test_machines_that_come_back_in_time_are_used(searcher_of, cluster):
    searcher = searcher_of(SWEEP, wait_s=0.4)
    cluster.nodes = ()
    assert searcher.suggest("t1") is None
    cluster.nodes = (node("host1-again"),)
    time.sleep(0.5)
    assert numbered(searcher.suggest("t1")["place"]).node_ids == ("id-host1-again",)
    assert searcher.stopped_by is None


def test_what_waits_for_room_when_the_run_is_stopped_is_taken_back_and_was_never_begun(searcher_of):
    searcher = searcher_of(SWEEP)
    searcher.suggest("t1")
    searcher.stop()
    assert searcher.to_withdraw() == ["t1"]
    searcher.on_trial_complete("t1")
    assert searcher.events == [("started", "finetune")]
    assert len(searcher.running) == 1, "for whoever closes the accounts: it may have got workers at the last moment"


def test_what_may_not_start_lets_others_start_and_is_left_when_nothing_runs(searcher_of):
    allowed = {"fp32"}
    searcher = searcher_of("precisions: [bf16, fp32]", may_start=lambda stage: stage.spec.precision in allowed)
    searcher.suggest("t1")
    searcher.has_workers(["t1"])
    assert searcher.suggest("t2") is None, "what runs may leave room for the other"
    searcher.on_trial_complete("t1", FINISHED)
    assert isinstance(searcher.suggest("t2"), dict)
    searcher.has_workers(["t2"])
    searcher.on_trial_complete("t2", FINISHED)
    assert searcher.suggest("t3") == "FINISHED"
    assert searcher.waiting == 2


def test_every_stage_is_handed_out_once(searcher_of):
    seeds = ", ".join(map(str, range(400)))
    searcher = searcher_of(f"precisions: [fp32]\nfinetune: {{method: none}}\nseeds: [{seeds}]")
    handed_out = []
    for number in range(400):
        handed_out.append(searcher.suggest(f"t{number}")["stage_id"])
        searcher.has_workers([f"t{number}"])
        searcher.on_trial_complete(f"t{number}", FINISHED)
    assert len(set(handed_out)) == 400
    assert searcher.suggest("end") == "FINISHED"


def test_a_trial_that_a_stop_left_no_time_to_start_has_the_folder_that_tune_asks_for_at_the_end(
    searcher, tmp_path, monkeypatch
):
    monkeypatch.setattr("ray.train._internal.storage._get_ray_train_session_dir", lambda: str(tmp_path / "session"))
    trial = Trial("stage", stub=True, storage=StorageContext(str(tmp_path), "sweep"))
    with pytest.raises(RuntimeError, match="trial_dir_name"):
        _ = trial.path
    _Placer(searcher).on_trial_add(None, trial)
    assert trial.path.startswith(str(tmp_path / "sweep"))


def test_another_round_begins_once_all_of_the_first_has_ended_and_blocks_what_lacks_its_fine_tuning(searcher_of):
    def is_dense(stage):
        return stage.spec.pruning.kind == "none"

    rounds = []
    searcher = searcher_of(SWEEP, first=is_dense, next_round=rounds.pop)
    rounds += [[], searcher.later]
    started = [searcher.suggest("t1")]
    searcher.has_workers(["t1"])
    searcher.on_trial_complete("t1", FINISHED)
    started.append(searcher.suggest("t2"))
    searcher.has_workers(["t2"])
    assert searcher.suggest("t3") is None, "the first round has not ended"
    searcher.on_trial_complete("t2", FINISHED)
    assert searcher.suggest("t3") is None, "the next round has just begun"
    started.append(searcher.suggest("t3"))
    assert [config["stage_id"] for config in started] == [stage.stage_id for stage in searcher.stages]
    searcher.has_workers(["t3"])
    searcher.on_trial_complete("t3", FINISHED)
    assert searcher.suggest("t4") == "FINISHED"

    rounds[:] = [[], searcher.later]
    failing = searcher_of(SWEEP, first=is_dense, next_round=rounds.pop)
    failing.suggest("t1")
    failing.on_trial_complete("t1", failed("diverged", "diverged"))
    assert failing.suggest("t2") is None
    assert failing.suggest("t2") == "FINISHED"
    assert failing.events[-1] == ("blocked", "inference")
    assert len([event for event, _ in failing.events if event == "blocked"]) == 2, "that of the second round, too"

"""A fine-tuning that goes on from a checkpoint ends as if it had never been interrupted: bitwise, on a CPU."""

import dataclasses
import json
import logging
import pickle
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from energyaware.checkpoint_store import COMMIT, last_committed
from energyaware.checkpoints import CheckpointRule, Keeping
from energyaware.energy.base import NullMeter, Work
from energyaware.errors import Interrupted, OutOfMemory
from energyaware.model_ref import folder_ref
from energyaware.pruning_record import PruningRecord
from energyaware.spec import Pruning, stage_id
from energyaware.stage import Carried, run_stage
from energyaware.store import Store
from energyaware.tasks.data import files_ref
from tests.energyaware.alone import finetune_spec, process_group_of_one
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_llama

pytest_plugins = "tests.s3"

pytestmark = [  # of what DeepSpeed calls
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed.\\w+. is deprecated:FutureWarning"),
]

HALF = Pruning("magnitude", 0.5, "unstructured", "before")
ALL = CheckpointRule(every_steps=2, keep=100)
NONE = CheckpointRule(every_steps=10**6)
STEPS_PER_EPOCH = 6


@pytest.fixture(scope="module")
def alone():
    with process_group_of_one() as place:
        yield place


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Two epochs of six steps, with dropout."""
    folder = tmp_path_factory.mktemp("base")
    data = files_ref(save_tickets(folder / "tickets.jsonl"), columns=COLUMNS)
    model = folder_ref(save_llama(folder / "llama"), "model")
    return finetune_spec(model, data, method="lora", lora_dropout=0.2, learning_rate=1e-3)


@pytest.fixture
def train(alone, tmp_path):
    """Runs a fine-tuning in a results folder of that name, or under that URL."""

    def train(spec, results, attempt=1, rule=NONE, meter=None, stopping=lambda: False):
        store = Store(results if "://" in results else tmp_path / results)
        store.create()
        name = stage_id(spec)
        with store.scratch(name):
            outcome = run_stage(name, spec, alone, meter or NullMeter(), store, Keeping(attempt, rule, stopping))
        return outcome, load_file(next(store.artifact(name).glob("*model.safetensors")))

    return train


@pytest.fixture
def left_at(tmp_path):
    """A results folder in which an attempt was killed just after it had left the last of these checkpoints."""

    def left_at(spec, *steps):
        name = "left-at-" + "-".join(map(str, steps))
        for step in steps:
            folder = f"checkpoints/{stage_id(spec)}/{step:08d}"
            shutil.copytree(tmp_path / "leaving" / folder, tmp_path / name / folder)
        return name

    return left_at


@pytest.fixture
def checkpoints(tmp_path):
    """Folder of a stage's checkpoints in results of that name."""
    return lambda results, spec: tmp_path / results / "checkpoints" / stage_id(spec)


def assert_same(one, other):
    (outcome, weights), (expected, expected_weights) = one, other
    assert outcome.epochs == expected.epochs
    assert outcome.columns == expected.columns
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], expected_weights[name]) for name in weights)


FULL, LORA = {"method": "full"}, {"method": "lora"}
CASES = {
    **{f"full-zero{stage}": FULL | {"zero_stage": stage} for stage in range(4)},
    **{f"lora-zero{stage}": LORA | {"zero_stage": stage} for stage in range(4)},
    "full-zero2-masked": FULL | {"zero_stage": 2, "pruning": HALF},
    "full-zero3-masked": FULL | {"zero_stage": 3, "pruning": HALF},
    "lora-zero3-masked": LORA | {"zero_stage": 3, "pruning": HALF},
    "bf16-zero0": LORA | {"precision": "bf16"},
    "bf16-zero1": FULL | {"precision": "bf16", "zero_stage": 1},
    "nf4-masked": LORA | {"precision": "nf4", "pruning": HALF},
    "int8-zero2": LORA | {"precision": "int8", "zero_stage": 2},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_what_goes_on_from_a_checkpoint_ends_like_what_was_never_interrupted(base, train, left_at, changes):
    spec = dataclasses.replace(base, **changes)
    expected = train(spec, "uninterrupted")
    assert_same(train(spec, "leaving", rule=ALL), expected)  # leaving checkpoints changes nothing
    resumed = train(spec, left_at(spec, 4), attempt=2)
    assert_same(resumed, expected)
    assert resumed[0].carried == (Carried(1, 0, 4),)


@pytest.mark.parametrize("step", [2, STEPS_PER_EPOCH, 10, 2 * STEPS_PER_EPOCH])
def test_it_goes_on_from_the_middle_of_an_epoch_and_from_the_end_of_one(base, train, left_at, step):
    leaving = train(base, "leaving", rule=ALL)
    assert_same(train(base, left_at(base, step), attempt=2), leaving)


def test_attempts_follow_each_other_each_from_where_the_last_one_left_off(base, train, left_at, tmp_path):
    expected = train(base, "leaving", rule=ALL)
    results = left_at(base, 4)
    with pytest.raises(Interrupted, match="the run was stopped; it goes on from step 5"):
        train(base, results, attempt=2, stopping=lambda: True)
    last = last_committed(Store(tmp_path / results).files, stage_id(base))
    assert (last["step"], last["epoch"], last["attempts"]) == (5, 1, [[1, 0, 4], [2, 4, 5]])
    resumed = train(base, results, attempt=3)
    assert_same(resumed, expected)
    assert resumed[0].carried == (Carried(1, 0, 4), Carried(2, 4, 5))


def test_a_stop_at_the_end_of_an_epoch_comes_after_its_evaluation(base, train, left_at):
    expected = train(base, "leaving", rule=ALL)
    results, meter = left_at(base, 4), Recorder()
    answers = iter([False, True])  # asked after the first step, and at the end of the epoch
    with pytest.raises(Interrupted, match=f"it goes on from step {STEPS_PER_EPOCH}"):
        train(base, results, attempt=2, meter=meter, stopping=lambda: next(answers))
    assert meter.windows == [("train", 1, 4), ("evaluate", 1, 6), ("checkpoint", 1, None)]
    assert_same(train(base, results, attempt=3), expected)


class Recorder:
    """A meter that notes its windows, each as (name, epoch, from_step)."""

    def __init__(self):
        self.windows = []

    @contextmanager
    def window(self, name, epoch=None, repeat=None, from_step=None):
        self.windows.append((name, epoch, from_step))
        yield Work()


def test_no_window_goes_over_a_checkpoint(base, train):
    meter = Recorder()
    train(base, "leaving", rule=CheckpointRule(every_steps=4), meter=meter)
    assert meter.windows == [
        ("train", 1, 0), ("checkpoint", 1, None), ("train", 1, 4), ("evaluate", 1, 6),
        ("train", 2, 6), ("checkpoint", 2, None), ("train", 2, 8), ("evaluate", 2, 12), ("checkpoint", 2, None),
    ]  # fmt: skip


def test_only_the_newest_are_kept(base, train, checkpoints):
    train(base, "leaving", rule=CheckpointRule(every_steps=2, keep=2))
    assert sorted(path.name for path in checkpoints("leaving", base).iterdir()) == ["00000010", "00000012"]


def test_the_micro_batch_may_be_smaller_after_memory_ran_out(base, train, left_at):
    spec = dataclasses.replace(base, lora_dropout=0.0)
    expected, _ = train(spec, "leaving", rule=ALL)
    assert expected.columns["micro_batch_size"] == 16
    resumed, _ = train(dataclasses.replace(spec, micro_batch_size=4), left_at(spec, 4), attempt=2)
    assert resumed.columns["micro_batch_size"] == 4
    for row, wanted in zip(resumed.epochs, expected.epochs, strict=True):
        assert row == {name: pytest.approx(value, abs=1e-5) for name, value in wanted.items()}


class Malicious:
    """Unpickled by somebody who trusts it, it makes a file."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (str(self._path), "w")


def test_a_malicious_checkpoint_is_refused_and_nothing_of_it_executed(
    base, train, left_at, checkpoints, tmp_path, caplog
):
    expected = train(base, "leaving", rule=ALL)
    results = left_at(base, 4)
    folder, trap = checkpoints(results, base) / "00000004", tmp_path / "trapped"
    (states,) = folder.glob("*.pt")
    torch.save({"module": Malicious(trap)}, states)
    commit = json.loads((folder / COMMIT).read_text())
    commit["files"][states.name] = states.stat().st_size
    (folder / COMMIT).write_text(json.dumps(commit))
    pickle.loads(pickle.dumps(Malicious(tmp_path / "it works"))).close()
    assert (tmp_path / "it works").exists()
    with caplog.at_level(logging.WARNING, "energyaware"):
        again = train(base, results, attempt=2)
    assert_same(again, expected)
    assert again[0].carried == ()
    assert not trap.exists()
    assert "the checkpoint of step 4 is removed: mp_rank_00_model_states.pt is not what was written" in caplog.text
    assert "it starts anew" in caplog.text


def spoil(folder, how):
    (states,) = folder.glob("*.pt")
    if how == "not committed":
        (folder / COMMIT).unlink()
    elif how == "torn":
        states.write_bytes(states.read_bytes()[:-100])
    elif how == "a file is missing":
        (folder / "generators-0.json").unlink()
    elif how == "overwritten":
        states.write_bytes(bytes(states.stat().st_size))
    elif how == "torn COMMIT":
        (folder / COMMIT).write_bytes((folder / COMMIT).read_bytes()[:-20])
    else:
        commit = json.loads((folder / COMMIT).read_text())
        (folder / COMMIT).write_text(json.dumps(commit | how))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("not committed", ""),
        ("torn", "removed: mp_rank_00_model_states.pt has"),
        ("a file is missing", "removed: generators-0.json is not there"),
        ("overwritten", "removed: mp_rank_00_model_states.pt is not what was written"),
        ("torn COMMIT", "passed over: its COMMIT is not one of this version"),
        ({"world_size": 2, "loss_sums": [0.0, 0.0]}, "passed over: it is of 2 workers, these are 1"),
        ({"zero_stage": 1}, "passed over: it is of ZeRO stage 1, this is 0"),
        ({"digest": "other"}, "passed over: it started from other masks or layers"),
        ({"versions": {"torch": "1.0"}}, "passed over: it was written with torch 1.0, this is"),
        ({"protocol": 1}, "passed over: it is of protocol 1, this is"),
        ({"stage_id": "another"}, "passed over: it is of another stage or step"),
    ],
    ids=str,
)
def test_one_that_cannot_be_used_is_passed_over_for_the_one_before_it(
    base, train, left_at, checkpoints, caplog, how, reason
):
    spec = dataclasses.replace(base, epochs=1)
    expected = train(spec, "leaving", rule=ALL)
    results = left_at(spec, 2, 4)
    spoil(checkpoints(results, spec) / "00000004", how)
    with caplog.at_level(logging.WARNING, "energyaware"):
        resumed = train(spec, results, attempt=2, rule=ALL)
    assert_same(resumed, expected)
    assert resumed[0].carried == (Carried(1, 0, 2),)
    assert reason in caplog.text


def test_masks_structures_and_what_is_trained_make_a_start_another():
    mask = torch.tensor([[True, False], [True, True]])
    records = [
        PruningRecord(),
        PruningRecord({"layer": mask}),
        PruningRecord({"layer": ~mask}),
        PruningRecord({"other": mask}),
        PruningRecord(removed={"heads": (1, 4)}),
    ]
    digests = {record.digest({"weight": shape}) for record in records for shape in ([2, 2], [4])}
    assert len(digests) == 2 * len(records)
    assert PruningRecord({"layer": mask.clone()}).digest({"weight": [4]}) in digests


def test_where_no_checkpoint_can_be_written_it_goes_on_without(base, train, checkpoints, caplog):
    expected = train(base, "uninterrupted")
    in_the_way = checkpoints("results", base)
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "energyaware"):
        assert_same(train(base, "results", rule=CheckpointRule(every_steps=5)), expected)
    assert caplog.text.count("it goes on without a checkpoint of step") == 2
    with pytest.raises(Interrupted, match="it goes on from step 0"):
        train(base, "results", stopping=lambda: True)


class SmallDisk(Recorder):
    """No file can grow beyond 50 kB while a checkpoint is written."""

    @contextmanager
    def window(self, name, epoch=None, repeat=None, from_step=None):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if name == "checkpoint":
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # Python ignores the signal that comes with it
        with super().window(name, epoch, repeat, from_step) as work:
            yield work
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_disk_that_is_full_costs_the_checkpoint_and_nothing_else(base, train, checkpoints, caplog, zero_stage):
    spec = dataclasses.replace(base, zero_stage=zero_stage)
    expected = train(spec, "uninterrupted")
    with caplog.at_level(logging.WARNING, "energyaware"):
        assert_same(train(spec, "results", rule=CheckpointRule(every_steps=5), meter=SmallDisk()), expected)
    assert caplog.text.count("it goes on without a checkpoint of step") == 2
    assert caplog.text.count("File too large") == 2
    assert not any(path.is_file() for path in checkpoints("results", spec).rglob("*"))


def test_on_object_storage_it_goes_on_as_it_does_from_a_folder(base, train, bucket):
    expected = train(base, "uninterrupted")
    with pytest.raises(Interrupted, match="it goes on from step 1"):
        train(base, bucket, stopping=lambda: True)
    files = Store(bucket).files
    last = last_committed(files, stage_id(base))
    assert {f"checkpoints/{stage_id(base)}/00000001/{name}" for name in (*last["files"], COMMIT)} == set(
        files.names("checkpoints")
    )
    resumed = train(base, bucket, attempt=2)
    assert_same(resumed, expected)
    assert resumed[0].carried == (Carried(1, 0, 1),)


def test_memory_that_runs_out_is_said_in_one_line_with_the_micro_batch(base, train):
    spec = dataclasses.replace(base, lora_rank=2**42, micro_batch_size=8)
    with pytest.raises(OutOfMemory, match=r"can't allocate memory.*, with micro-batches of 8$") as caught:
        train(spec, "results")
    assert "\n" not in str(caught.value)

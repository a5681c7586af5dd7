"""Real fine-tunings on real DeepSpeed ranks: every ZeRO stage, masks that hold, no matter how many workers."""

import dataclasses
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from cluster.gang import Gang, WorkerResources
from energyaware.checkpoints import CheckpointRule, Keeping
from energyaware.energy.base import NullMeter
from energyaware.errors import Diverged, Interrupted
from energyaware.masks import achieved_sparsity, load_masks
from energyaware.model_ref import folder_ref
from energyaware.models import load_model
from energyaware.precision import PRECISIONS
from energyaware.spec import DENSE, FinetuneSpec, InferenceSpec, Pruning, stage_id
from energyaware.stage import Carried, run_stage, warm_up
from energyaware.store import Store
from energyaware.tasks.data import files_ref
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_llama

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

HALF = Pruning("magnitude", 0.5, "unstructured", "before")


@pytest.fixture(scope="module")
def ray():
    from cluster.connect import join

    with join("local"):
        import ray

        yield ray


@pytest.fixture(scope="module")
def gang_of(ray):
    made = {}

    def gang_of(size):
        if size not in made:
            group = ray.util.placement_group([{"CPU": 0.5}] * size)
            ray.get(group.ready(), timeout=60)
            made[size] = Gang(group, WorkerResources(0.5, 0, "cpu"), [1] * size, warm_up)
        return made[size]

    yield gang_of
    for gang in made.values():
        gang.dismiss()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    model = folder_ref(save_llama(folder / "llama"), "model")
    data = files_ref(save_tickets(folder / "tickets.jsonl"), columns=COLUMNS)
    return FinetuneSpec(
        model=model, data=data, tasks=("root_cause", "response"), precision="fp32", pruning=DENSE, method="full",
        epochs=2, steps=None, batch_size=8, learning_rate=1e-3, warmup=0.1, weight_decay=0.1, sequence_length=64,
        lora_rank=4, lora_alpha=8.0, lora_dropout=0.0, zero_stage=0, seed=0,
    )  # fmt: skip


@pytest.fixture
def finetune(gang_of, base, tmp_path):
    def finetune(workers=2, results=None, keeping=None, **changes):
        spec = dataclasses.replace(base, **changes)
        store = Store(tmp_path / (results or f"results-{workers}"))
        store.create()
        name = stage_id(spec)
        with store.scratch(name):
            outcome = gang_of(workers).run(run_stage, lambda rank: (name, spec, rank, NullMeter(), store, keeping))[0]
        return outcome, store.artifact(name), spec, store

    return finetune


def losses(outcome):
    return [epoch["loss"] for epoch in outcome.epochs]


@pytest.fixture(scope="module")
def reference():
    """Losses of the first run seen, for the others to equal."""
    return {}


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_zero_stages_train_alike_and_keep_the_mask(finetune, reference, method, zero_stage):
    outcome, artifact, spec, _ = finetune(method=method, zero_stage=zero_stage, pruning=HALF)
    seen = losses(outcome)
    assert seen[-1] < seen[0]
    assert seen == pytest.approx(reference.setdefault(method, seen), abs=1e-5)
    assert outcome.columns["sparsity_achieved"] == 0.5
    assert outcome.columns["realisation"] == "simulated"
    masks = load_masks(artifact)
    assert len(masks) == outcome.columns["pruned_layers"] == 14
    if method == "full":
        assert achieved_sparsity(load_model(spec.model, PRECISIONS["fp32"], "cpu", artifact), masks) == 0.5
        assert outcome.columns["trained_parameters"] > 60_000
    else:
        assert (artifact / "adapter_model.safetensors").exists()
        assert outcome.columns["trained_parameters"] == 4 * sum(sum(mask.shape) for mask in masks.values())
    assert not list(artifact.rglob("*.bin")), "weights are kept as safetensors alone"


def test_the_number_of_workers_and_micro_batches_changes_nothing(finetune):
    two = losses(finetune(workers=2)[0])
    assert losses(finetune(workers=1)[0]) == pytest.approx(two, abs=1e-5)
    assert losses(finetune(workers=2, micro_batch_size=2)[0]) == pytest.approx(two, abs=1e-5)


def test_the_same_settings_give_the_same_numbers_and_another_seed_others(finetune):
    first = losses(finetune(method="lora")[0])
    assert losses(finetune(method="lora")[0]) == first
    assert losses(finetune(method="lora", seed=1)[0]) != first


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_workers_that_go_on_from_a_checkpoint_end_as_if_never_interrupted(finetune, tmp_path, method, zero_stage):
    spec = {"method": method, "zero_stage": zero_stage, "pruning": HALF, "lora_dropout": 0.2}
    expected, artifact, settings, _ = finetune(results="uninterrupted", **spec)
    rule = CheckpointRule(every_steps=5, keep=100)
    leaving, *_ = finetune(results="leaving", keeping=Keeping(1, rule), **spec)
    assert leaving.epochs == expected.epochs
    folder = f"checkpoints/{stage_id(settings)}/00000005"
    shutil.copytree(tmp_path / "leaving" / folder, tmp_path / "resumed" / folder)
    resumed, found, *_ = finetune(results="resumed", keeping=Keeping(2), **spec)
    assert resumed.epochs == expected.epochs
    assert resumed.carried == (Carried(1, 0, 5),)
    weights, wanted = (load_file(next(where.glob("*model.safetensors"))) for where in (found, artifact))
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


def test_workers_that_are_stopped_leave_a_checkpoint_that_they_go_on_from(finetune):
    expected, *_ = finetune(results="uninterrupted")
    with pytest.raises(Interrupted, match="the run was stopped; it goes on from step 1"):
        finetune(results="stopped", keeping=Keeping(1, stopping=lambda: True))
    resumed, *_ = finetune(results="stopped", keeping=Keeping(2))
    assert resumed.epochs == expected.epochs
    assert resumed.carried == (Carried(1, 0, 1),)


def test_steps_cut_the_last_epoch_short(finetune):
    outcome, *_ = finetune(steps=15, batch_size=8)
    assert [epoch["steps"] for epoch in outcome.epochs] == [12, 3]
    assert all(math.isfinite(epoch["validation_loss"]) for epoch in outcome.epochs)


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
@pytest.mark.parametrize("pruning", [DENSE, HALF], ids=lambda p: p.label)
def test_every_precision_learns_and_is_served(finetune, gang_of, precision, pruning):
    outcome, _, spec, store = finetune(method="lora", precision=precision, pruning=pruning, learning_rate=1e-2)
    assert losses(outcome)[-1] < losses(outcome)[0]
    assert outcome.columns["quantised_layers"] == (14 if precision in {"int8", "nf4"} else 0)
    served = serve(gang_of(2), spec, store, pruning)
    assert {row["metric"] for row in served.quality} == {"accuracy", "macro_f1", "rouge_l", "bleu"}
    assert all(0 <= row["value"] <= 1 for row in served.quality)
    assert all(len(row["per_example"]) == row["examples"] for row in served.quality)
    assert served.columns["eligible_layers"] == 14  # an adapter's own layers are none of them
    assert served.columns["quantised_layers"] == outcome.columns["quantised_layers"]
    assert served.columns["skipped_layers"] == []
    assert served.columns["sparsity_achieved"] == (0.5 if pruning is HALF else 0.0)
    assert served.columns["prefill_requests"] > 0
    assert served.columns["new_tokens"] == served.columns["decode_requests"] * 6


def serve(gang, spec, store, pruning):
    inference = InferenceSpec(
        model=spec.model, data=spec.data, tasks=spec.tasks, finetuned=stage_id(spec), finetune_method=spec.method,
        finetune_precision=spec.precision, precision=spec.precision, pruning=pruning, batch_size=4,
        sequence_length=spec.sequence_length, max_new_tokens=6, test_examples=None, min_window_s=0.05, repeats=1,
        seed=0,
    )  # fmt: skip
    name = stage_id(inference)
    with store.scratch(name):
        return gang.run(run_stage, lambda rank: (name, inference, rank, NullMeter(), store))[0]


@pytest.mark.parametrize(("method", "precision"), [("full", "fp32"), ("lora", "fp32"), ("lora", "nf4")])
def test_pruning_after_fine_tuning_is_carried_out_by_the_inference(finetune, gang_of, method, precision):
    after = Pruning("magnitude", 0.5, "2:4", "after")
    _, _, spec, store = finetune(method=method, precision=precision)
    served = serve(gang_of(2), spec, store, after)
    assert served.columns["sparsity_achieved"] == served.columns["sparsity_target"] == 0.5
    assert served.columns["pruned_layers"] == 14


@pytest.mark.parametrize("sequence_length", [4096, 256])
def test_tickets_longer_than_the_models_context_lose_their_start(finetune, gang_of, tmp_path, sequence_length):
    data = files_ref(save_tickets(tmp_path / "long.jsonl", noise_words=400), columns=COLUMNS)
    outcome, _, spec, store = finetune(data=data, sequence_length=sequence_length, steps=2)
    assert math.isfinite(losses(outcome)[-1])
    assert all(row["examples"] for row in serve(gang_of(2), spec, store, DENSE).quality)


def test_a_loss_that_is_no_number_is_diverged_and_leaves_no_artifact(finetune, base):
    with pytest.raises(Diverged, match="the loss became nan"):
        finetune(method="full", learning_rate=1e30, steps=30)


def test_threads_are_those_of_the_worker(gang_of):
    assert gang_of(2).run(torch.get_num_threads, lambda rank: ()) == [1, 1]

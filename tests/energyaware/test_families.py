"""What holds for every model family: load, fine-tune, save, reload, evaluate, generate; adapters and their masks."""

import dataclasses
import json

import pytest
import torch

from energyaware.audit import audit
from energyaware.energy.base import NullMeter
from energyaware.errors import InputError, StageError
from energyaware.finetune import finetune
from energyaware.inference import infer
from energyaware.layers import eligible_layers, weight_matrix
from energyaware.lora import add_adapter, load_adapter, merge_adapter
from energyaware.masks import achieved_sparsity, apply_masks, load_masks
from energyaware.model_ref import folder_ref, hub_ref
from energyaware.models import context_length, decoder_start_id, load_model, load_tokenizer
from energyaware.precision import PRECISIONS
from energyaware.pruning import PRUNERS
from energyaware.spec import DENSE, InferenceSpec, Pruning, stage_id
from energyaware.store import Store
from energyaware.tasks.data import files_ref
from tests.energyaware.alone import finetune_spec, process_group_of_one
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import FAMILIES_TINY, VARIANTS_TINY, save_gpt2, save_gpt_neo, save_t5

HALF = Pruning("magnitude", 0.5, "unstructured", "before")
MODELS = FAMILIES_TINY | VARIANTS_TINY
FP32 = PRECISIONS["fp32"]


@pytest.fixture(scope="module")
def alone():
    with process_group_of_one() as place:
        yield place


@pytest.fixture(scope="module")
def tickets(tmp_path_factory):
    return files_ref(save_tickets(tmp_path_factory.mktemp("data") / "tickets.jsonl", count=40), columns=COLUMNS)


@pytest.fixture(scope="module", params=MODELS)
def ref(request, tmp_path_factory):
    return folder_ref(MODELS[request.param](tmp_path_factory.mktemp("model")), "model")


def run(spec, place, store, stage=finetune):
    name = stage_id(spec)
    with store.scratch(name):
        return stage(name, spec, place, NullMeter(), store)


def serving_of(spec, precision, pruning):
    return InferenceSpec(
        model=spec.model, data=spec.data, tasks=spec.tasks, finetuned=stage_id(spec), finetune_method=spec.method,
        finetune_precision=spec.precision, precision=precision, pruning=pruning, batch_size=4, sequence_length=64,
        max_new_tokens=4, test_examples=6, min_window_s=0.01, repeats=1, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "precision", "served", "pruning"),
    [
        ("full", "fp32", "fp32", DENSE),
        ("full", "bf16", "nf4", HALF),
        ("lora", "bf16", "bf16", HALF),
        ("lora", "nf4", "nf4", HALF),
        ("lora", "int8", "int8", DENSE),
    ],
)
def test_a_family_trains_and_is_served(ref, alone, tickets, tmp_path, method, precision, served, pruning):
    store = Store(tmp_path)
    store.create()
    spec = finetune_spec(ref, tickets, method=method, precision=precision, pruning=pruning)
    first, second = (trained := run(spec, alone, store)).epochs
    assert second["loss"] < first["loss"]
    assert second["validation_loss"] < first["validation_loss"]
    assert trained.columns["eligible_layers"] > 0
    assert trained.columns["sparsity_achieved"] == (0.5 if pruning is HALF else 0.0)

    outcome = run(serving_of(spec, served, pruning), alone, store, infer)
    assert {row["metric"] for row in outcome.quality} == {"accuracy", "macro_f1", "rouge_l", "bleu"}
    assert all(0 <= row["value"] <= 1 for row in outcome.quality)
    for row in outcome.quality:
        assert len(row["per_example"]) == row["examples"]
        assert sum(row["per_example"]) / row["examples"] == pytest.approx(row["value"])
    assert outcome.columns["sparsity_achieved"] == trained.columns["sparsity_achieved"]
    assert outcome.columns["eligible_layers"] == trained.columns["eligible_layers"]
    assert outcome.columns["prefill_requests"] > 0
    lengths = {int(length): count for length, count in json.loads(outcome.columns["prompt_lengths"]).items()}
    assert all(length % 16 == 0 for length in lengths)
    assert sum(lengths.values()) == outcome.quality[0]["examples"] * len({row["task"] for row in outcome.quality})
    assert outcome.columns["new_tokens"] == outcome.columns["decode_requests"] * 4
    masks = load_masks(store.artifact(stage_id(spec)))
    assert len(masks) == (trained.columns["eligible_layers"] if pruning is HALF else 0)


@pytest.mark.parametrize("save", [save_gpt2, save_gpt_neo])
def test_tickets_longer_than_the_context_are_answered(save, alone, tmp_path):
    """These have a table of 256 positions and nothing beyond it."""
    ref = folder_ref(save(tmp_path / "model"), "model")
    data = files_ref(save_tickets(tmp_path / "long.jsonl", count=40, noise_words=400), columns=COLUMNS)
    store = Store(tmp_path / "results")
    store.create()
    trained = finetune_spec(ref, data, sequence_length=4096, epochs=1, steps=1, batch_size=4)
    run(trained, alone, store)
    served = dataclasses.replace(serving_of(trained, "fp32", DENSE), sequence_length=4096)
    outcome = run(served, alone, store, infer)
    assert all(row["examples"] for row in outcome.quality)
    assert outcome.columns["prompt_tokens"] > (256 - 20) * outcome.columns["prefill_requests"]


def pruned(model):
    masks = PRUNERS["magnitude"].prune(model, HALF, (), 0).masks
    apply_masks(model, masks)
    return masks


def some_batch(model):
    ids = torch.randint(2, 300, (2, 12), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids}


def train_a_little(model, batch, steps=4):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


def test_a_masked_adapter_is_served_as_it_trained_and_merges_sparse(ref, tmp_path):
    base = load_model(ref, FP32, "cpu")
    masks, names = pruned(base), eligible_layers(base).keys()
    model = add_adapter(base, finetune_spec(ref), masks)
    batch = some_batch(base)
    losses = train_a_little(model, batch)
    assert losses[-1] < losses[0]
    moved = [name for name, p in model.named_parameters() if "lora_B" in name and p.abs().sum() > 0]
    assert len(moved) == len(names) == len(masks)
    trained = logits(model, batch)
    model.save_pretrained(tmp_path)

    fresh = load_model(ref, FP32, "cpu")
    apply_masks(fresh, masks)
    served = load_adapter(fresh, tmp_path, masks)
    torch.testing.assert_close(logits(served, batch), trained, atol=1e-5, rtol=1e-4)
    merged = merge_adapter(served, masks)
    torch.testing.assert_close(logits(merged, batch), trained, atol=1e-4, rtol=1e-4)
    assert achieved_sparsity(merged, masks) == 0.5


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradients_of_a_masked_adapter_are_those_of_its_formula(ref, dropout):
    """W + M * (scale * B A) written into the weights, and differentiated by autograd."""
    base = load_model(ref, FP32, "cpu")
    masks = pruned(base)
    model = add_adapter(base, finetune_spec(ref, lora_dropout=dropout), masks)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    batch = some_batch(base)

    def gradients():
        model.zero_grad()
        torch.manual_seed(0)
        model.train()(**batch).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    ours = gradients()
    for name, layer in eligible_layers(model.get_base_model()).items():
        adapted = model.get_base_model().get_submodule(name)
        del adapted.lora_A["default"].forward, adapted.lora_B["default"].forward
        adapted.forward = written_out(adapted, layer, masks[name])
    for name, gradient in gradients().items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-3)


def written_out(adapted, layer, mask):
    def forward(x):
        change = adapted.lora_B["default"].weight @ adapted.lora_A["default"].weight
        dropped = adapted.lora_dropout["default"](x)
        return layer(x) + dropped @ (mask * change * adapted.scaling["default"]).T

    return forward


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_an_adapter_over_any_weights_trains_and_is_the_same_when_loaded(ref, tmp_path, precision):
    precision = PRECISIONS[precision]
    base = load_model(ref, precision, "cpu")
    audited = audit(base, precision)
    model = add_adapter(base, finetune_spec(ref), {})
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == audited.eligible_layers
    batch = some_batch(base)
    losses = train_a_little(model, batch)
    assert losses[-1] < losses[0]
    trained = logits(model, batch)
    model.save_pretrained(tmp_path)
    again = load_adapter(load_model(ref, precision, "cpu"), tmp_path, {})
    torch.testing.assert_close(logits(again, batch), trained)
    plain = logits(load_model(ref, precision, "cpu"), batch)
    assert (trained - plain).abs().max() > 0.1


def test_an_adapter_is_on_every_eligible_layer_and_nowhere_else(ref):
    base = load_model(ref, FP32, "cpu")
    names = set(eligible_layers(base))
    model = add_adapter(base, finetune_spec(ref), {}).get_base_model()
    assert {name for name, module in model.named_modules() if hasattr(module, "lora_A")} == names
    assert all(weight_matrix(layer).requires_grad is False for layer in eligible_layers(model).values())


def test_a_reference_knows_its_family_before_loading(ref):
    assert ref.family in FAMILIES_TINY
    assert type(load_model(ref, FP32, "cpu")).__name__.lower().startswith(ref.family.replace("_", ""))


def test_a_hub_model_is_of_a_known_family_once_its_configuration_is_cached(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    revision = "0123456789" * 4
    assert hub_ref("someone/model", revision, "model").family == ""
    snapshot = tmp_path / "models--someone--model" / "snapshots" / revision
    save_gpt2(snapshot)
    assert hub_ref("someone/model", revision, "model").family == "gpt2"
    assert hub_ref("someone/model", "f" * 40, "model").family == ""
    assert hub_ref("someone/model", revision, "model") != hub_ref("someone/model", "f" * 40, "model")
    with pytest.raises(InputError, match="is no id of the Hugging Face hub"):
        hub_ref("not/a/hub/id", revision, "model")


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path):
    folder = save_gpt2(tmp_path / "model")
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: model: cannot be read as JSON"):
        folder_ref(folder, "model")


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path):
    ref = folder_ref(save_gpt2(tmp_path / "model"), "model")
    settings = tmp_path / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"eos_token": None}))
    with pytest.raises(StageError, match=r"model: the tokenizer has no end-of-text token \(eos_token\)"):
        load_tokenizer(dataclasses.replace(ref, revision="changed"))


def test_a_model_without_positions_reads_what_its_tokenizer_allows(tmp_path):
    gpt2, t5 = (folder_ref(save(tmp_path / save.__name__), "model") for save in (save_gpt2, save_t5))
    model, tokenizer = load_model(gpt2, FP32, "cpu"), load_tokenizer(gpt2)
    assert context_length(model, tokenizer) == 256
    assert decoder_start_id(model) is None
    model, tokenizer = load_model(t5, FP32, "cpu"), load_tokenizer(t5)
    assert context_length(model, tokenizer) > 10**9
    tokenizer.model_max_length = 512
    assert context_length(model, tokenizer) == 512
    assert decoder_start_id(model) == model.config.decoder_start_token_id

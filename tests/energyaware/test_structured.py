"""Structured pruning: what goes, that nothing else changes, and that what is left is an ordinary model."""

import copy
import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch

from energyaware.errors import AuditError
from energyaware.families import FAMILIES, family_of
from energyaware.layers import weight_matrix
from energyaware.pruning import PRUNERS
from energyaware.pruning.structured import structures, verify_structures
from energyaware.pruning.structured.neurons import _for_kernels
from energyaware.spec import Pruning
from tests.energyaware.structured_models import (
    CASES,
    CONFIGS,
    batches,
    blocks_of,
    build,
    logits,
    modules_of,
    pruned,
    share,
    unpadded,
    writers,
)

RELOAD = """
import json, sys, bitsandbytes, torch, transformers
from transformers import BitsAndBytesConfig

def quantised(kind):
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)

def values(layer):
    if type(layer).__name__ == "Linear4bit":
        return bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.weight.data.float() * layer.weight.SCB[:, None] / 127

report = {}
for folder in sys.argv[1:]:
    asked = torch.load(f"{folder}/asked.pt")
    load = getattr(transformers, asked["class"]).from_pretrained
    model = load(folder).eval()
    with torch.no_grad():
        difference = float((model(**asked["batch"]).logits - asked["logits"]).abs().max())
    report[folder] = {"difference": difference, "tokens": {}, "quantised": {}}
    for cache in (True, False):
        tokens = model.generate(asked["prompt"], max_new_tokens=10, do_sample=False, use_cache=cache)
        report[folder]["tokens"][str(cache)] = tokens.tolist()
    for kind in ("int8", "nf4"):
        small = load(folder, quantization_config=quantised(kind), dtype=torch.float32, device_map={"": "cpu"}).eval()
        for module in small.modules():
            if type(module).__name__ == "Linear4bit":
                module.support_avx512bf16_for_cpu = False
        plain, errors = dict(model.named_modules()), []
        for name, module in small.named_modules():
            if type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
                weight = plain[name].weight.data
                weight = weight.T if type(plain[name]).__name__ == "Conv1D" else weight
                errors.append(float((values(module) - weight).norm() / weight.norm()))
        with torch.no_grad():
            finite = bool(small(**asked["batch"]).logits.isfinite().all())
        report[folder]["quantised"][kind] = {"layers": len(errors), "error": max(errors, default=0), "finite": finite}
assert not [name for name in sys.modules if name.partition(".")[0] == "energyaware"]
print(json.dumps(report))
"""
"""What someone does who has transformers and our folder, and nothing else of ours."""


def cases(*kinds):
    return [pytest.param(*case, id="-".join(case)) for case in CASES if not kinds or case[1] in kinds]


def generated(model, **how):
    prompt = torch.randint(2, 90, (1, 9), generator=torch.Generator().manual_seed(3))
    return model.generate(prompt, max_new_tokens=10, do_sample=False, **how)


def kept_outputs(whole, part):
    """Which outputs of a linear layer a smaller one computes, found by their weights."""
    rows, remaining = weight_matrix(whole), weight_matrix(part)
    found = (rows[:, None, :] == remaining[None, :, :]).all(-1)
    assert (found.sum(0) == 1).all(), "a row that stays was changed, or is there twice"
    indices = found.nonzero()[:, 0]
    assert len(indices) == len(remaining)
    return indices


def silence(layer, columns):
    weight_matrix(layer)[:, columns] = 0


def masked(dense, small, pruner):
    """The dense model with zeros where the small one has nothing."""
    model, family = copy.deepcopy(dense), family_of(dense.config)
    if pruner == "layers":
        for path in family.stacks:
            inner = [modules_of(block, family.feed_forward.module)[0] for block in small.get_submodule(path)]
            remaining = [weight_matrix(getattr(module, family.feed_forward.out)) for module in inner]
            for block in model.get_submodule(path):
                module = modules_of(block, family.feed_forward.module)[0]
                out = weight_matrix(getattr(module, family.feed_forward.out))
                if not any(torch.equal(out, weight) for weight in remaining):
                    for layer in writers(block):
                        layer.weight.data.zero_()
                        if layer.bias is not None:
                            layer.bias.data.zero_()
        return model
    shape = family.feed_forward if pruner == "neurons" else family.attention
    names = (shape.module,) if pruner == "neurons" else shape.modules
    for name in names:
        for whole, part in zip(modules_of(model, name), modules_of(small, name), strict=True):
            into = next(n for n in shape.into if hasattr(whole, n)) if pruner == "neurons" else shape.query
            gone = torch.ones(weight_matrix(getattr(whole, shape.out)).shape[1], dtype=torch.bool)
            gone[kept_outputs(getattr(whole, into), getattr(part, into))] = False
            assert gone.any()
            silence(getattr(whole, shape.out), gone)
    return model


@pytest.mark.parametrize(("name", "pruner"), cases())
def test_the_smaller_model_computes_what_the_dense_one_does_without_those_structures(name, pruner):
    dense, small, removed = pruned(name, pruner)
    reference = logits(masked(dense, small, pruner))
    torch.testing.assert_close(logits(small), reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))
    assert (logits(dense) - reference).abs().max() > 1e-2 * float(reference.abs().max()), "nothing was removed"
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())
    verify_structures(small, removed)
    with pytest.raises(AuditError):
        verify_structures(dense, removed)


@pytest.mark.parametrize(("name", "pruner"), cases())
def test_the_share_is_rounded_to_whole_structures_and_counted(name, pruner):
    dense, small, removed = pruned(name, pruner)
    before, after = structures(dense.config), structures(small.config)
    for unit, (gone, of) in removed.items():
        assert before[unit] == of
        assert after[unit] == of - gone
        assert abs(gone - share(name, pruner) * of) <= max(0.5, of / 64 if unit == "neurons" else 0)
    assert {unit: after[unit] for unit in after if unit not in removed} == {
        unit: before[unit] for unit in before if unit not in removed
    }
    assert len(removed) == (2 if dense.config.is_encoder_decoder and pruner == "layers" else 1)


@pytest.mark.parametrize(
    ("share", "count", "kept"),
    [
        (0.3, 11008, 7680),  # Llama 2 7B, whose 30 % are 3302.4 neurons
        (0.5, 11008, 5504),
        (0.25, 3072, 2304),
        (0.3, 1536, 1072),
        (0.3, 256, 180),
        (0.3, 96, 67),  # too few for a step
        (0.99, 64, 1),
        (0.004, 1000, 992),
    ],
)
def test_neurons_that_stay_are_a_width_for_matrix_kernels(share, count, kept):
    assert _for_kernels(count - round(share * count), count) == kept


@pytest.mark.parametrize(("name", "pruner"), cases())
def test_generation_with_a_cache_is_generation_without_one_before_saving(name, pruner):
    _, small, _ = pruned(name, pruner)
    assert generated(small, use_cache=True).tolist() == generated(small, use_cache=False).tolist()


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """By case: what a fresh process without our code found in the saved folder."""
    folders = {}
    for name, pruner in CASES:
        _, small, _ = pruned(name, pruner)
        folder = folders[name, pruner] = tmp_path_factory.mktemp("saved")
        small.save_pretrained(folder)
        batch = batches(small, lengths=((12, 12),), answers=((7, 7),))[0]
        with torch.no_grad():
            asked = {"class": type(small).__name__, "batch": batch, "logits": small(**batch).logits}
        prompt = torch.randint(2, 90, (1, 9), generator=torch.Generator().manual_seed(3))
        torch.save(asked | {"prompt": prompt}, folder / "asked.pt")
    command = [sys.executable, "-c", RELOAD, *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path_factory.getbasetemp())
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    return {case: report[str(folder)] for case, folder in folders.items()}


@pytest.mark.parametrize(("name", "pruner"), cases())
def test_plain_transformers_reloads_the_same_model(reloaded, name, pruner):
    found = reloaded[name, pruner]
    assert found["difference"] < 1e-4 * max(1.0, float(logits(pruned(name, pruner)[1]).abs().max()))
    expected = generated(pruned(name, pruner)[1], use_cache=True).tolist()
    assert found["tokens"] == {"True": expected, "False": expected}


@pytest.mark.parametrize(("name", "pruner"), cases())
def test_the_smaller_model_can_be_quantised(reloaded, name, pruner):
    for kind, error in (("int8", 0.02), ("nf4", 0.15)):
        found = reloaded[name, pruner]["quantised"][kind]
        # bitsandbytes leaves Falcon's subclass of nn.Linear alone in plain transformers.
        assert (found["layers"] == 0) == name.startswith("falcon")
        assert (found["error"] == 0) == name.startswith("falcon")
        assert found["error"] < error
        assert found["finite"]


@pytest.mark.parametrize(("name", "pruner"), cases("neurons", "heads"))
def test_the_structures_that_stay_are_those_of_a_plain_float64_reference(name, pruner):
    dense, small, _ = pruned(name, pruner)
    family = family_of(dense.config)
    shape = family.feed_forward if pruner == "neurons" else family.attention
    scores = reference_scores(dense, shape, (shape.module,) if pruner == "neurons" else shape.modules)
    size = 1 if pruner == "neurons" else structures(dense.config)[shape.unit]
    for kind, found in scores.items():
        layer_scores = [score if pruner == "neurons" else score.view(size, -1).sum(1) for score in found]
        for stack in stacks_of(dense, kind):
            of_stack = [layer_scores[index] for index in stack]
            if kind == "SelfAttention":  # T5: one table of position biases for the stack
                of_stack = [sum(score / score.sum() for score in of_stack)] * len(of_stack)
            for index, score in zip(stack, of_stack, strict=True):
                whole, part = modules_of(dense, kind)[index], modules_of(small, kind)[index]
                into = next(n for n in shape.into if hasattr(whole, n)) if pruner == "neurons" else shape.key
                rows = kept_outputs(getattr(whole, into), getattr(part, into))
                width = 1 if pruner == "neurons" else getattr(dense.config, shape.head_dim)
                chosen = sorted(set((rows // width).tolist()))
                assert chosen == sorted(score.topk(len(chosen)).indices.tolist())


def reference_scores(dense, shape, kinds):
    """By kind of module, for each in order: the score of every column, written out, one unpadded example at a time."""
    model, inputs = copy.deepcopy(dense).double(), {}
    layers = {(kind, i): getattr(m, shape.out) for kind in kinds for i, m in enumerate(modules_of(model, kind))}
    for key, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, x, key=key: inputs.setdefault(key, []).append(x[0][0]))
    with torch.no_grad():
        for example in unpadded(batches(dense)):
            model(**example)
    scores = {kind: [] for kind in kinds}
    for (kind, index), layer in layers.items():
        tokens, weight = torch.cat(inputs[kind, index]), weight_matrix(layer)
        scores[kind].append(
            torch.tensor(
                [
                    math.sqrt(sum(x * x for x in column)) * sum(abs(w) for w in outputs)
                    for column, outputs in zip(tokens.T.tolist(), weight.T.tolist(), strict=True)
                ],
                dtype=torch.float64,
            )
        )
    return scores


def stacks_of(model, kind):
    """Indices into modules_of(model, kind), by stack."""
    start, groups = 0, []
    for path in family_of(model.config).stacks:
        count = len(modules_of(model.get_submodule(path), kind))
        groups.append(range(start, start + count))
        start += count
    return groups


@pytest.mark.parametrize(("name", "pruner"), cases("layers"))
def test_the_blocks_that_stay_are_those_of_a_plain_float64_reference(name, pruner):
    dense, small, removed = pruned(name, pruner)
    model, seen = copy.deepcopy(dense).double(), {}

    def note(index, inputs, named, output):
        before = inputs[0] if inputs else named["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        seen.setdefault(index, []).extend(zip(before[0].tolist(), after[0].tolist(), strict=True))

    for index, block in enumerate(blocks_of(model)):
        block.register_forward_hook(lambda _, i, n, o, index=index: note(index, i, n, o), with_kwargs=True)
    with torch.no_grad():
        for example in unpadded(batches(dense)):
            model(**example)

    def influence(pairs):
        cosines = [
            sum(x * y for x, y in zip(before, after, strict=True)) / (math.hypot(*before) * math.hypot(*after))
            for before, after in pairs
        ]
        return 1 - sum(cosines) / len(cosines)

    start = 0
    for path, (gone, of) in zip(family_of(dense.config).stacks, removed.values(), strict=True):
        scores = [influence(seen[index]) for index in range(start, start + of)]
        movable = range(1 if dense.config.is_encoder_decoder else 0, of)
        lost = sorted(movable, key=lambda index: scores[index])[:gone]
        stays = [block for index, block in enumerate(dense.get_submodule(path)) if index not in lost]
        for whole, part in zip(stays, small.get_submodule(path), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), part.parameters(), strict=True))
        start += of


@pytest.mark.parametrize(("name", "pruner"), cases())
def test_the_same_calibration_removes_the_same_whatever_the_seed(name, pruner):
    dense, small, _ = pruned(name, pruner)
    again = copy.deepcopy(dense)
    PRUNERS[pruner].prune(again, Pruning(pruner, share(name, pruner), "structured"), batches(again), seed=99)
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in again.state_dict().items())
    assert structures(again.config) == structures(small.config)


@pytest.mark.parametrize(("name", "pruner"), cases())
def test_the_smaller_model_trains_and_tied_weights_stay_tied(name, pruner):
    dense, small, removed = pruned(name, pruner)
    model = copy.deepcopy(small).train()
    tied = dense.get_output_embeddings().weight is dense.get_input_embeddings().weight
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    batch = {"input_ids": batches(model)[1]["input_ids"]}
    losses = []
    for _ in range(2):
        torch.manual_seed(0)  # the same dropout in both steps
        loss = model(**batch, labels=batch["input_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    verify_structures(model, removed)


@pytest.mark.parametrize("kind", ["none", "int8", "nf4"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_a_reloaded_model_is_checked_in_any_precision_and_with_an_adapter(name, kind, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import BitsAndBytesConfig

    dense, small, removed = pruned(name, "neurons")
    settings = {"int8": {"load_in_8bit": True}, "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}

    def load(model, folder):
        model.save_pretrained(folder)
        quantisation = {"quantization_config": BitsAndBytesConfig(**settings[kind])} if kind != "none" else {}
        return type(model).from_pretrained(folder, device_map={"": "cpu"}, **quantisation)

    whole = load(dense, tmp_path / "dense")
    with pytest.raises(AuditError, match="neurons were removed"):
        verify_structures(whole, removed)
    setattr(whole.config, family_of(whole.config).feed_forward.width, structures(small.config)["neurons"])
    with pytest.raises(AuditError, match=r"not as wide as the config says: .*mlp|DenseReluDense"):
        verify_structures(whole, removed)

    model = load(small, tmp_path / "small")
    verify_structures(model, removed)
    shape = family_of(small.config).feed_forward
    targets = [name for name in (*shape.into, shape.out) if any(n.endswith(name) for n, _ in model.named_modules())]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, fan_in_fan_out=name == "gpt2"))
    verify_structures(adapted, removed)


def test_lists_with_an_entry_for_each_block_lose_those_of_the_removed_ones():
    dense, small, _ = pruned("gpt_neo", "layers")
    kinds = [block.attn.attention_type for block in small.transformer.h]
    assert kinds != dense.config.attention_layers[: len(kinds)]
    assert small.config.attention_layers == kinds
    assert small.config.expand_attention_types_params(small.config.attention_types) == kinds


def test_each_stack_of_an_encoder_decoder_has_its_own_count():
    model = build("t5")
    removed = PRUNERS["layers"].prune(model, Pruning("layers", 0.25, "structured"), batches(model), seed=0).removed
    assert removed == {"encoder layers": (1, 4), "decoder layers": (1, 3)}
    assert (model.config.num_layers, model.config.num_decoder_layers) == (3, 2)
    assert (model.encoder.config.num_layers, model.decoder.config.num_layers) == (3, 2)


def test_an_encoder_that_kept_its_blocks_is_found():
    _, small, removed = pruned("t5", "layers")
    model = copy.deepcopy(small)
    model.encoder.block.append(copy.deepcopy(model.encoder.block[-1]))
    with pytest.raises(AuditError, match=r"encoder\.block has 3 blocks, the config says 2"):
        verify_structures(model, removed)


REFUSED = {
    "none of them": ("llama", Pruning("layers", 0.1, "structured"), "0 of 4 layers; possible: 25%, 50%, 75%"),
    "all of them": ("llama", Pruning("layers", 0.9, "structured"), "4 of 4 layers; possible: 25%, 50%, 75%"),
    "too few neurons": ("gpt2", Pruning("neurons", 0.001, "structured"), "0 of 256 neurons; possible: 0.3906%, 0.7812"),
    # Six heads do not divide a hidden size of 64, which Llama's config insists on and Mistral's does not.
    "heads that do not divide": ("llama", Pruning("heads", 0.25, "structured"), "1 of 4 .* possible: 50%, 75%"),
    "another pattern": ("llama", Pruning("heads", 0.5, "2:4"), "structured, not 2:4"),
    "single layers": ("llama", Pruning("neurons", 0.5, "structured", overrides=(("*.0.*", "none"),)), r"\*\.0\.\*"),
    "fused heads": ("gpt2", Pruning("heads", 0.5, "structured"), "gpt2 models cannot have it: .*GPT2Attention"),
}


@pytest.mark.parametrize(("name", "pruning", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_removed_is_refused_and_nothing_changed(name, pruning, message):
    model = build(name)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(AuditError, match=message):
        PRUNERS[pruning.kind].prune(model, pruning, batches(model), seed=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_without_calibration_nothing_can_be_scored():
    model = build("gpt2")
    with pytest.raises(AuditError, match="no calibration examples"):
        PRUNERS["neurons"].prune(model, Pruning("neurons", 0.5, "structured"), [], seed=0)


def test_blocks_that_compute_by_their_place_cannot_go():
    model = build("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(AuditError, match="scale_attn_by_inverse_layer_idx"):
        PRUNERS["layers"].prune(model, Pruning("layers", 0.5, "structured"), batches(model), seed=0)


def test_a_family_is_added_by_one_entry(monkeypatch, tmp_path):
    from transformers import AutoModelForCausalLM

    monkeypatch.setitem(CONFIGS, "qwen2", ("Qwen2ForCausalLM", "Qwen2Config", {
        **CONFIGS["mistral"][2], "use_sliding_window": True, "max_window_layers": 2,
    }))  # fmt: skip
    monkeypatch.setitem(
        FAMILIES, "qwen2", dataclasses.replace(FAMILIES["mistral"], name="qwen2", per_layer=("layer_types",))
    )
    for pruner in ("heads", "neurons", "layers"):
        model = build("qwen2")
        PRUNERS[pruner].prune(model, Pruning(pruner, 1 / 3, "structured"), batches(model), seed=0)
        model.save_pretrained(tmp_path / pruner)
        again = AutoModelForCausalLM.from_pretrained(tmp_path / pruner).eval()
        torch.testing.assert_close(logits(again), logits(model))

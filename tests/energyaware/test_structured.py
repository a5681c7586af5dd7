"""Structured pruning: what goes, that nothing else changes, and what is refused."""

import copy
import dataclasses

import pytest
import torch

from energyaware.errors import AuditError
from energyaware.families import FAMILIES, family_of
from energyaware.layers import weight_matrix
from energyaware.pruning import PRUNERS
from energyaware.pruning.structured import structures, verify_structures
from energyaware.pruning.structured.neurons import _for_kernels
from energyaware.spec import Pruning
from tests.energyaware.structured_cases import cases, kept_outputs
from tests.energyaware.structured_models import CONFIGS, batches, build, logits, modules_of, pruned, share, writers


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

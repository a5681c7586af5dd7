"""Pruners against plain float64 references, on single layers and through whole models of every family."""

import dataclasses
import random

import pytest
import torch

from energyaware.errors import AuditError, InputError
from energyaware.layers import eligible_layers, weight_matrix
from energyaware.masks import achieved_sparsity, pruned_layers, target_sparsity
from energyaware.models import load_model, load_tokenizer
from energyaware.precision import PRECISIONS
from energyaware.pruning import PRUNERS
from energyaware.pruning.calibration import calibration_batches
from energyaware.pruning.layerwise import LayerContext, Layerwise
from energyaware.pruning.patterns import NofM, Unstructured, make_pattern
from energyaware.pruning.statistics import InputGram, InputNorms
from energyaware.spec import Calibration, ModelRef, Pruning
from energyaware.tasks.base import Example
from tests.tiny import FAMILIES_TINY, save_gpt2, save_llama, save_mixtral

LAYERWISE = {name: pruner for name, pruner in PRUNERS.items() if not pruner.structured}
PATTERNS = [Unstructured(0.5), Unstructured(0.37), NofM(2, 4), NofM(4, 8)]
SYMBOLS = [chr(code) for code in range(33, 127)]
DRAW = random.Random(0)
EXAMPLES = [
    Example("alarm " + "".join(DRAW.choices(SYMBOLS, k=12 + 2 * (n % 9))), "".join(DRAW.choices(SYMBOLS, k=9 + n % 5)))
    for n in range(24)
]


def loaded(folder):
    ref = ModelRef("folder", folder.name, "x", str(folder))
    return load_model(ref, PRECISIONS["fp32"], "cpu").eval(), load_tokenizer(ref)


def calibrated(folder, examples=24, seed=3):
    model, tokenizer = loaded(folder)
    drawn = calibration_batches(Calibration(examples), EXAMPLES, tokenizer, model, sequence_length=48, seed=seed)
    return model, drawn.batches


def pruning(kind, pattern="2:4", sparsity=0.5, **changes):
    return dataclasses.replace(Pruning(kind, sparsity, pattern, "after"), **changes)


def context(inputs=None, name="layer", seed=0):
    return LayerContext(name, inputs, torch.Generator().manual_seed(seed))


def some_inputs(pruner, features, tokens=200):
    """Statistics over inputs that are correlated and of very different size, and those inputs."""
    draw = torch.Generator().manual_seed(5)
    inputs = torch.randn(tokens, features, generator=draw) @ torch.randn(features, features, generator=draw)
    inputs *= torch.logspace(-1, 1, features)
    seen = pruner.statistics(features, torch.device("cpu")) if pruner.statistics else None
    for batch in inputs.split(64) if seen else ():
        seen.add(batch)
    return seen, inputs


@pytest.mark.parametrize("name", LAYERWISE)
@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_pruner_keeps_exactly_what_its_pattern_says(name, pattern, dtype):
    weight = torch.randn(24, 160, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    weight[:, :16] = 0.5  # ties, of which a threshold would keep too many
    mask = LAYERWISE[name].keep(weight.clone(), pattern, context(some_inputs(LAYERWISE[name], 160)[0]))
    assert mask.shape == weight.shape
    assert mask.dtype == torch.bool
    if name == "none":
        assert mask.all()
    elif isinstance(pattern, NofM):
        assert (mask.view(24, -1, pattern.m).sum(-1) == pattern.n).all()
    else:
        assert int(mask.sum()) == round((1 - pattern.sparsity) * weight.numel())


def test_magnitude_keeps_the_largest_by_hand():
    weight = torch.tensor([[0.1, -3.0, 2.0, 0.2], [1.0, -1.5, 0.0, 0.4]])
    keep = PRUNERS["magnitude"].keep
    assert keep(weight, NofM(2, 4), context()).tolist() == [[False, True, True, False], [True, True, False, False]]
    assert keep(weight, Unstructured(0.75), context()).tolist() == [[False, True, True, False], [False] * 4]


def test_wanda_weighs_with_the_inputs_and_compares_within_an_output_by_hand():
    inputs = InputNorms(4, torch.device("cpu"))
    inputs.add(torch.tensor([[3.0, 0.0, 1.0, 0.1], [4.0, 0.5, 0.0, 0.0]]))  # norms 5, 0.5, 1, 0.1
    weight = torch.tensor([[0.3, 2.0, 0.9, 9.0], [10.0, 60.0, 31.0, 70.0]])  # scores 1.5 1 .9 .9 | 50 30 31 7
    assert PRUNERS["wanda"].keep(weight, Unstructured(0.5), context(inputs)).tolist() == [
        [True, True, False, False],
        [True, False, True, False],
    ]


def test_rows_of_an_unstructured_pattern_differ_by_one_at_most():
    mask = Unstructured(0.37).keep_highest_per_output(torch.rand(40, 65))
    rows = mask.sum(1)
    assert int(mask.sum()) == round(0.63 * 40 * 65)
    assert int(rows.max()) - int(rows.min()) == 1


def test_random_is_drawn_anew_for_each_seed_and_layer(folders):
    masks = [PRUNERS["random"].prune(loaded(folders("llama"))[0], pruning("random"), (), seed).masks for seed in (1, 2)]
    first, second = (m["model.layers.0.self_attn.q_proj"] for m in masks)
    other = masks[0]["model.layers.1.self_attn.q_proj"]
    for mask in (second, other):
        assert 0.4 < float((first == mask).float().mean()) < 0.6


@pytest.mark.parametrize("name", LAYERWISE)
@pytest.mark.parametrize("asked", [("unstructured", 0.37), ("2:4", 0.5)], ids=str)
def test_a_pruning_is_determined_by_its_settings_and_leaves_the_rest_of_the_model(folders, name, asked):
    dense, _ = loaded(folders("gpt2"))
    outcomes = []
    for _ in range(2):
        model, batches = calibrated(folders("gpt2"))
        done = PRUNERS[name].prune(model, pruning(name, *asked), batches, 7)
        outcomes.append((model, done.masks))
        assert done.masks.keys() == eligible_layers(model).keys()
        assert achieved_sparsity(model, done.masks) == pytest.approx(0 if name == "none" else asked[1], abs=1e-4)
    (model, masks), (again, same) = outcomes
    for layer, mask in masks.items():
        assert torch.equal(mask, same[layer])
        weight, other, before = (weight_matrix(m.get_submodule(layer)) for m in (model, again, dense))
        assert torch.equal(weight, other)
        assert not weight[~mask].any()
        changed = not torch.equal(weight[mask], before[mask])
        assert changed == PRUNERS[name].reconstructs
    others = {n for n, _ in model.named_parameters()} - {f"{layer}.weight" for layer in masks}
    assert others
    assert all(torch.equal(model.get_parameter(n), dense.get_parameter(n)) for n in others)


def plain_wanda(weight, inputs, pattern):
    """Mask of Wanda, score by score; float64, (out, in) and (tokens, in)."""
    norms = [sum(float(x) ** 2 for x in column) ** 0.5 for column in inputs.T]
    mask = torch.zeros_like(weight, dtype=torch.bool)
    for row in range(weight.shape[0]):
        score = [abs(float(w)) * norm for w, norm in zip(weight[row], norms, strict=True)]
        size, kept = (pattern.m, pattern.n) if pattern.group else (len(score), round(len(score) * 0.5))
        for start in range(0, len(score), size):
            best = sorted(range(start, start + size), key=lambda j: -score[j])[:kept]
            mask[row, best] = True
    return mask


def inputs_of(model, name, batches):
    """A layer's inputs over all tokens, from plain forward passes of one unpadded example each: (tokens, in)."""
    rows = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, x: rows.append(x[0].flatten(0, -2).clone()))
    for batch in batches:
        for index in range(len(batch["input_ids"])):
            alone = {}
            for side in ("", "decoder_"):
                if f"{side}input_ids" in batch:
                    real = batch[f"{side}attention_mask"][index].bool()
                    alone[f"{side}input_ids"] = batch[f"{side}input_ids"][index][real].unsqueeze(0)
            with torch.no_grad():
                model(**alone)
    hook.remove()
    return torch.cat(rows)


def blocks_in_order(family, names):
    """Layers of each block, in the order of computation."""
    stacks = {"t5": ["encoder.block", "decoder.block"], "llama": ["model.layers"], "mistral": ["model.layers"]}
    for stack in stacks.get(family, ["transformer.h"]):
        for number in range(2):
            yield [name for name in names if name.startswith(f"{stack}.{number}.")]


@pytest.mark.parametrize("family", FAMILIES_TINY)
@pytest.mark.parametrize("asked", ["unstructured", "2:4"])
def test_wanda_agrees_with_a_plain_float64_reference_through_whole_models(folders, family, asked):
    pattern = make_pattern(asked, 0.5)
    model, batches = calibrated(folders(family), examples=6)
    masks = PRUNERS["wanda"].prune(model, pruning("wanda", asked), batches, 0).masks
    reference = loaded(folders(family))[0].double()
    agreeing = 0
    covered = []
    for block in blocks_in_order(family, masks):
        seen = {name: inputs_of(reference, name, batches) for name in block}
        for name in block:
            weight = weight_matrix(reference.get_submodule(name))
            expected = plain_wanda(weight, seen[name], pattern)
            agreeing += int((expected == masks[name]).sum())
            dense, ours = weight.clone(), weight_matrix(model.get_submodule(name)).double()
            weight.masked_fill_(~expected, 0)
            errors = [float((seen[name] @ (dense - pruned).T).norm()) for pruned in (ours, weight)]
            assert errors[0] == pytest.approx(errors[1], rel=1e-3), name
        covered += block
    assert sorted(covered) == sorted(masks)
    assert agreeing / sum(mask.numel() for mask in masks.values()) >= 0.999


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt"])
def test_overrides_say_what_is_different_in_single_layers(folders, name):
    model, batches = calibrated(folders("llama"), 8)
    overrides = (("*.0.self_attn.q_proj", "none"), ("*.self_attn.*", "25%"), ("*.1.mlp.up_proj", "4:8"))
    asked = pruning(name, overrides=overrides)
    dense, _ = loaded(folders("llama"))
    masks = PRUNERS[name].prune(model, asked, batches, 0).masks
    shares = {layer: 1 - float(mask.float().mean()) for layer, mask in masks.items()}
    first, second = "model.layers.0.", "model.layers.1."
    assert shares[f"{first}self_attn.q_proj"] == 0
    assert shares[f"{second}self_attn.q_proj"] == shares[f"{first}self_attn.k_proj"] == 0.25
    assert shares[f"{first}mlp.up_proj"] == shares[f"{second}mlp.up_proj"] == 0.5
    assert (masks[f"{second}mlp.up_proj"].view(128, -1, 8).sum(-1) == 4).all()
    assert (masks[f"{second}mlp.up_proj"].view(128, -1, 4).sum(-1) != 2).any()
    left = f"{first}self_attn.q_proj"
    assert torch.equal(model.get_submodule(left).weight, dense.get_submodule(left).weight)
    assert pruned_layers(masks) == len(masks) - 1
    assert target_sparsity(masks, asked) == pytest.approx(achieved_sparsity(model, masks))
    assert 0.3 < target_sparsity(masks, asked) < 0.5


def test_an_override_that_matches_nothing_is_an_error_that_names_it(folders):
    asked = pruning("magnitude", overrides=(("*.q_proj", "25%"), ("*.c_attn", "none")))
    with pytest.raises(AuditError, match=r"magnitude-2:4\*: the override '\*\.c_attn' matches none of 14 layers"):
        PRUNERS["magnitude"].prune(loaded(folders("llama"))[0], asked, (), 0)


@pytest.mark.parametrize("amount", ["half", "100%", "-5%", "4:2", "%", "nan%"])
def test_an_amount_that_is_none_is_refused(folders, amount):
    with pytest.raises(InputError):
        PRUNERS["magnitude"].prune(loaded(folders("llama"))[0], pruning("magnitude", overrides=(("*", amount),)), (), 0)


@pytest.mark.parametrize("text", ["4:2", "0:4", "2:4:8", "half", "2-4"])
def test_a_pattern_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="is not unstructured or n:m"):
        make_pattern(text, 0.5)


@pytest.mark.parametrize("name", ["magnitude", "wanda"])
def test_a_shape_that_cannot_have_the_pattern_names_the_layer_before_anything_is_pruned(folders, name):
    model, batches = calibrated(folders("llama"), 8)
    with pytest.raises(AuditError, match=rf"{name}-2:7: layer .*in_features 64 is not a multiple of 7"):
        PRUNERS[name].prune(model, pruning(name, "2:7", 5 / 7), batches, 0)
    assert all(weight_matrix(layer).all() for layer in eligible_layers(model).values())


def test_fused_experts_are_refused_by_name(tmp_path):
    save_mixtral(tmp_path)
    with pytest.raises(
        AuditError, match=r"no linear layer's would stay dense: model.layers.0.mlp.experts.gate_up_proj"
    ):
        PRUNERS["magnitude"].prune(loaded(tmp_path)[0], pruning("magnitude"), (), 0)


@pytest.mark.parametrize("name", ["magnitude", "random", "wanda", "sparsegpt"])
def test_layers_that_share_a_weight_are_pruned_once(folders, name):
    model, batches = calibrated(folders("llama"), 8)
    for block in model.model.layers:
        block.mlp.up_proj.weight = block.mlp.gate_proj.weight
    masks = PRUNERS[name].prune(model, pruning(name), batches, 0).masks
    first, second = (masks[f"model.layers.0.mlp.{layer}_proj"] for layer in ("gate", "up"))
    assert torch.equal(first, second)
    assert achieved_sparsity(model, masks) == 0.5


def test_a_weight_shared_by_layers_with_different_inputs_is_pruned_for_both(folders):
    model, batches = calibrated(folders("llama"), 8)
    attention = model.model.layers[0].self_attn
    attention.o_proj.weight = attention.q_proj.weight
    dense = attention.q_proj.weight.detach().clone()
    names = [f"model.layers.0.self_attn.{layer}_proj" for layer in ("q", "o")]
    seen = torch.cat([inputs_of(model, name, batches) for name in names]).double()
    masks = PRUNERS["wanda"].prune(model, pruning("wanda"), batches, 0).masks
    assert torch.equal(masks[names[0]], masks[names[1]])
    assert float((plain_wanda(dense, seen, NofM(2, 4)) == masks[names[0]]).float().mean()) >= 0.999


def test_a_weight_that_cannot_be_pruned_for_all_who_share_it_is_refused_by_name(folders):
    model, batches = calibrated(folders("llama"), 8)
    first, second = (block.mlp.up_proj for block in model.model.layers)
    second.weight = first.weight
    names = r"model.layers.0.mlp.up_proj, model.layers.1.mlp.up_proj share one weight"
    with pytest.raises(AuditError, match=f"wanda-2:4: {names} in different blocks"):
        PRUNERS["wanda"].prune(model, pruning("wanda"), batches, 0)
    with pytest.raises(AuditError, match=f"{names} and cannot be pruned differently"):
        PRUNERS["magnitude"].prune(model, pruning("magnitude", overrides=(("*.0.*", "none"),)), (), 0)
    masks = PRUNERS["magnitude"].prune(model, pruning("magnitude"), (), 0).masks
    assert achieved_sparsity(model, masks) == 0.5


@pytest.mark.parametrize("save", [save_llama, save_gpt2])
def test_a_new_criterion_is_one_method(tmp_path, save):
    class Lightest(Layerwise):
        """Keeps the smallest."""

        def keep(self, weight, pattern, context):
            return pattern.keep_highest(-weight.abs())

    model, _ = loaded(save(tmp_path))
    dense, _ = loaded(tmp_path)
    masks = Lightest().prune(model, pruning("lightest"), (), 0).masks
    heaviest = PRUNERS["magnitude"].prune(dense, pruning("magnitude"), (), 0).masks
    assert all(torch.equal(masks[name], ~heaviest[name]) for name in masks)


def test_statistics_add_up_over_batches_and_layers():
    inputs = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    for kind in (InputNorms, InputGram):
        whole, first, second = (kind(8, torch.device("cpu")) for _ in range(3))
        whole.add(inputs)
        first.add(inputs[:20])
        second.add(inputs[20:])
        total = first + second
        assert total.tokens == 50
        for found in (whole, total):
            squares = found.norms**2 if kind is InputNorms else found.gram.diagonal().double()
            torch.testing.assert_close(squares, inputs.double().square().sum(0), rtol=1e-5, atol=0)
    torch.testing.assert_close(total.gram.double(), inputs.double().T @ inputs.double(), rtol=1e-5, atol=1e-5)

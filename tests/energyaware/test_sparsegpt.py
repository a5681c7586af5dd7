"""SparseGPT against optimal brain surgery written out in float64: one inverse per column, no Cholesky factor."""

import pytest
import torch

from energyaware.errors import AuditError
from energyaware.layers import weight_matrix
from energyaware.pruning import PRUNERS
from energyaware.pruning.patterns import NofM, Unstructured, make_pattern
from energyaware.pruning.sparsegpt import COLUMNS, DAMPING, Hessian
from tests.energyaware.test_pruners import blocks_in_order, calibrated, context, inputs_of, loaded, plain_wanda, pruning

FAMILIES = ["llama", "gpt2", "t5"]


def surgery(weight, inputs, pattern):
    """Mask and compensated weight, float64.

    Columns go from left to right; of those left, F, the inverse of H[F, F] says what removing the first one costs,
    and what the others have to become.
    """
    weight, inputs = weight.double().clone(), inputs.double()
    hessian = inputs.T @ inputs
    dead = hessian.diagonal() == 0
    hessian += DAMPING * hessian.diagonal()[~dead].mean() * torch.eye(len(hessian), dtype=torch.float64)
    rows, columns = weight.shape
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(columns)]
    mask = torch.ones_like(weight, dtype=torch.bool)
    together, removed = pattern.group or COLUMNS, 0
    for j in range(columns):
        if j % together == 0:
            chosen = range(j, min(j + together, columns))
            cost = torch.stack([weight[:, k] ** 2 / inverses[k][0, 0] * ~dead[k] for k in chosen], dim=1)
            if pattern.group:
                gone = cost.argsort(dim=1)[:, : pattern.m - pattern.n]
                mask[:, j : j + together].scatter_(1, gone, value=False)
            else:
                wanted = rows * chosen.stop - round((1 - pattern.sparsity) * rows * chosen.stop)
                flat = cost.flatten().argsort()[: wanted - removed]
                mask[flat // len(chosen), j + flat % len(chosen)] = False
                removed = wanted
        step = torch.where(mask[:, j], 0.0, weight[:, j] / inverses[j][0, 0])
        weight[:, j:] -= step.unsqueeze(1) * inverses[j][0].unsqueeze(0)
        weight[:, j][~mask[:, j]] = 0
    return mask, weight


def layer_with_inputs(columns, tokens, dead=()):
    draw = torch.Generator().manual_seed(columns)
    inputs = torch.randn(tokens, columns, generator=draw) @ torch.randn(columns, columns, generator=draw)
    inputs *= torch.logspace(-1, 0.5, columns)[torch.randperm(columns, generator=draw)]
    inputs[:, list(dead)] = 0
    return torch.randn(48, columns, generator=draw), inputs


def hessian_of(inputs):
    seen = Hessian(inputs.shape[1], inputs.device)
    for batch in inputs.split(100):
        seen.add(batch)
    return seen


@pytest.mark.parametrize("pattern", [Unstructured(0.5), Unstructured(0.37), NofM(2, 4), NofM(4, 8)], ids=repr)
@pytest.mark.parametrize("columns", [64, 200], ids=["one block", "a block and a part of one"])
@pytest.mark.parametrize("tokens", [400, 50], ids=["many tokens", "fewer tokens than inputs"])
def test_a_layer_agrees_with_surgery_in_float64(pattern, columns, tokens):
    dense, inputs = layer_with_inputs(columns, tokens)
    weight = dense.clone()
    mask = PRUNERS["sparsegpt"].keep(weight, pattern, context(hessian_of(inputs)))
    expected, compensated = surgery(dense, inputs, pattern)
    assert float((mask == expected).float().mean()) >= 0.999
    assert int(mask.sum()) == int(expected.sum())
    assert not weight[~mask].any()
    x, w = inputs.double(), dense.double()
    error, least = (float((x @ (w - pruned.double()).T).norm()) for pruned in (weight, compensated))
    assert error == pytest.approx(least, rel=1e-3)
    wanda = w.masked_fill(~plain_wanda(w, x, pattern), 0) if pattern.sparsity == 0.5 else None
    magnitude = w.masked_fill(~pattern.keep_highest(w.abs()), 0)
    for other in (magnitude, *([wanda] if wanda is not None else [])):
        assert error < (x @ (w - other).T).norm(), "it was to lose less than masks alone do"


@pytest.mark.parametrize("pattern", [Unstructured(0.5), NofM(2, 4)], ids=repr)
def test_dead_inputs_go_first_and_what_stays_of_them_is_left_as_it_was(pattern):
    dead = [*range(8), *range(60, 96)]
    dense, inputs = layer_with_inputs(96, 400, dead)
    weight = dense.clone()
    mask = PRUNERS["sparsegpt"].keep(weight, pattern, context(hessian_of(inputs)))
    assert weight.isfinite().all()
    assert int(mask.sum()) == mask.numel() // 2
    if isinstance(pattern, NofM):
        assert (mask.view(48, -1, 4).sum(-1) == 2).all()
    else:
        assert not mask[:, dead].any(), "44 of 96 inputs are dead, half of the weights may go"
    kept = mask[:, dead]
    assert torch.equal(weight[:, dead][kept], dense[:, dead][kept])


def test_a_layer_whose_inputs_are_all_dead_keeps_exact_counts():
    weight = torch.randn(8, 16)
    mask = PRUNERS["sparsegpt"].keep(weight, NofM(2, 4), context(hessian_of(torch.zeros(20, 16))))
    assert (mask.view(8, -1, 4).sum(-1) == 2).all()


def test_a_hessian_that_cannot_be_factored_names_the_layer():
    seen = hessian_of(torch.full((20, 16), 1e30))
    with pytest.raises(AuditError, match=r"layer model\.x: the Hessian of 20 tokens is not positive definite"):
        PRUNERS["sparsegpt"].keep(torch.randn(8, 16), NofM(2, 4), context(seen, "model.x"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("asked", ["unstructured", "2:4"])
def test_whole_models_agree_with_surgery_block_by_block_in_float64(folders, family, asked):
    pattern = make_pattern(asked, 0.5)
    model, batches = calibrated(folders(family), examples=12)
    masks = PRUNERS["sparsegpt"].prune(model, pruning("sparsegpt", asked), batches, 0).masks
    reference = loaded(folders(family))[0].double()
    agreeing = 0
    for block in blocks_in_order(family, masks):
        seen = {name: inputs_of(reference, name, batches) for name in block}
        for name in block:
            weight = weight_matrix(reference.get_submodule(name))
            expected, compensated = surgery(weight, seen[name], pattern)
            agreeing += int((expected == masks[name]).sum())
            ours = weight_matrix(model.get_submodule(name)).double()
            errors = [float((seen[name] @ (weight - pruned).T).norm()) for pruned in (ours, compensated)]
            assert errors[0] == pytest.approx(errors[1], rel=1e-3), name
            weight.copy_(compensated)
    assert agreeing / sum(mask.numel() for mask in masks.values()) >= 0.999

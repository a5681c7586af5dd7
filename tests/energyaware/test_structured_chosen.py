"""Which structures go: those that a plain reference in float64 scores lowest, whatever the seed."""

import copy
import math

import pytest
import torch

from energyaware.families import family_of
from energyaware.layers import weight_matrix
from energyaware.pruning import PRUNERS
from energyaware.pruning.structured import structures
from energyaware.spec import Pruning
from tests.energyaware.structured_cases import cases, kept_outputs
from tests.energyaware.structured_models import batches, blocks_of, modules_of, pruned, share, unpadded


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

"""Calibration block by block: what layers are seen to see, in which order, and what is left behind."""

import threading
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from energyaware.errors import AuditError
from energyaware.layers import eligible_layers, weight_matrix
from energyaware.pruning.blockwise import blocks_of, calibrate_blocks
from energyaware.pruning.lockstep import in_lockstep
from energyaware.pruning.statistics import InputGram, InputNorms
from tests.energyaware.test_pruners import calibrated, inputs_of
from tests.tiny import FAMILIES_TINY


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "calibration"]
    assert torch.is_grad_enabled()


def assert_unhooked(model):
    for module in model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
        assert "forward" not in vars(module)


def calibrate(model, batches, prune, statistics=InputNorms, layers=None):
    calibrate_blocks(model, layers or eligible_layers(model), batches, statistics, prune)


@pytest.mark.parametrize("family", FAMILIES_TINY)
def test_statistics_are_those_of_unpadded_single_examples_behind_blocks_already_changed(folders, family):
    """Every block's layers are halved once they were seen; an ordinary model halved likewise says what was to see."""
    model, batches = calibrated(folders(family), examples=10)
    reference, _ = calibrated(folders(family), examples=10)
    assert any(not mask.all() for batch in batches for name, mask in batch.items() if name.endswith("mask"))
    order = []

    def prune(inputs):
        for name, seen in inputs.items():
            expected = inputs_of(reference, name, batches)
            assert seen.tokens == len(expected)
            torch.testing.assert_close(seen.norms.float(), expected.norm(dim=0), rtol=1e-4, atol=1e-5)
        for name in inputs:
            for changed in (model, reference):
                weight_matrix(changed.get_submodule(name)).mul_(0.5)
        order.append(list(inputs))

    calibrate(model, batches, prune)
    assert sorted(name for names in order for name in names) == sorted(eligible_layers(model))
    assert len(order) == 2 * (1 + (family == "t5"))
    if family == "t5":
        assert ["decoder" in names[0] for names in order] == [False, False, True, True]
    assert_unhooked(model)


def test_layers_that_see_one_tensor_have_statistics_in_common(folders):
    model, batches = calibrated(folders("llama"), 8)
    seen = {}
    calibrate(model, batches, seen.update, InputGram)
    q, k, v, o, gate, up, down = (seen[name] for name in list(eligible_layers(model))[:7])
    assert q is k is v
    assert gate is up
    assert len({id(one) for one in (q, o, gate, down)}) == 4


def test_every_batch_goes_through_every_block_as_in_one_ordinary_pass(folders):
    model, batches = calibrated(folders("llama"), 24)
    assert len(batches) == 3
    entered, outputs = [], {}
    blocks = {f"model.layers.{n}": block for n, block in enumerate(model.model.layers)}

    def arrived(name, calls):
        entered.append(name)
        outputs[name] = [call.compute() for call in calls]
        return True

    in_lockstep(model, blocks, batches, arrived)
    assert entered == list(blocks)
    for name, block in blocks.items():
        expected = []
        hook = block.register_forward_hook(lambda *called, into=expected: into.append(called[-1]))
        with torch.no_grad():
            for batch in batches:
                model(**batch, use_cache=False)
        hook.remove()
        for found, wanted in zip(outputs[name], expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_blocks_are_members_of_the_outermost_lists_and_layers_outside_are_blocks_of_their_own(folders):
    model, _ = calibrated(folders("t5"), 4)
    names = blocks_of(model, eligible_layers(model))
    assert list(names) == [f"{side}.block.{n}" for side in ("encoder", "decoder") for n in range(2)]
    assert sum(map(len, names.values())) == len(eligible_layers(model))


class Model(nn.Module):
    """Something that is called as a transformers model is: a layer outside, then two blocks of one layer each."""

    def __init__(self, spoil=None):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(16, 8)
        self.into = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8))])
        self.device, self.config, self.spoil = torch.device("cpu"), SimpleNamespace(), spoil

    def forward(self, input_ids, attention_mask, use_cache):
        x = self.into(self.embed(input_ids))
        for number, block in enumerate(self.blocks):
            if self.spoil:
                x = self.spoil(x, number)
            x = x if x is None else block(x)
        return x

    def layers(self):
        return {name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)}


def tokens(*lengths):
    ids = torch.arange(max(lengths)).expand(len(lengths), -1) % 16
    return {"input_ids": ids, "attention_mask": (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()}


BATCHES = [tokens(3, 5), tokens(4), tokens(2, 6, 1)]


def test_a_layer_outside_of_blocks_is_seen_and_changed_before_them():
    model, order = Model(), []

    def prune(inputs):
        order.append(list(inputs))
        if "into" in inputs:
            model.into.weight.data.zero_()
            model.into.bias.data.fill_(2.0)
        else:
            assert all(seen.tokens == 21 for seen in inputs.values())
        if "blocks.0.0" in inputs:
            torch.testing.assert_close(inputs["blocks.0.0"].norms.float(), torch.full((8,), (4 * 21) ** 0.5))

    calibrate(model, BATCHES, prune, layers=model.layers())
    assert order == [["into"], ["blocks.0.0"], ["blocks.1.0"]]
    assert_unhooked(model)


@pytest.mark.parametrize("where", [0, 1])
def test_an_error_in_a_pass_is_the_callers_and_leaves_nothing(where):
    def spoil(x, number):
        if number == where and x.shape[0] == 3:
            raise KeyError("the third batch cannot")
        return x

    model = Model(spoil)
    with pytest.raises(KeyError, match="the third batch cannot"):
        calibrate(model, BATCHES, lambda _: None, layers=model.layers())
    assert_unhooked(model)


def test_an_error_in_a_block_or_in_the_pruning_leaves_nothing():
    model = Model()
    model.blocks[1].append(nn.Linear(8, 8).double())
    with pytest.raises(RuntimeError, match="dtype"):
        calibrate(model, BATCHES, lambda _: None, layers=model.layers())
    assert_unhooked(model)
    model = Model()
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, BATCHES, lambda _: (_ for _ in ()).throw(KeyboardInterrupt), layers=model.layers())
    assert_unhooked(model)


def test_a_forward_that_another_library_put_on_a_block_is_there_again():
    model = Model()
    called = []
    own = model.blocks[0].forward
    model.blocks[0].forward = theirs = lambda x: called.append(1) or own(x)
    calibrate(model, BATCHES, lambda _: None, layers=model.layers())
    assert model.blocks[0].forward is theirs
    assert len(called) == 2 * len(BATCHES)


def test_batches_that_take_different_ways_are_refused():
    model = Model(lambda x, number: None if x is None or (number == 0 and x.shape[0] == 1) else x)
    with pytest.raises(AuditError, match=r"different ways through the model: some are at blocks\.0"):
        calibrate(model, BATCHES, lambda _: None, layers=model.layers())
    assert_unhooked(model)


def test_a_layer_that_is_never_reached_is_named():
    model = Model()
    model.unused = nn.Linear(8, 8)
    with pytest.raises(AuditError, match="no calibration token reaches unused"):
        calibrate(model, BATCHES, lambda _: None, layers=model.layers())
    model = Model()
    model.blocks[1].aside = nn.Linear(8, 8)
    model.blocks[1].forward = partial(model.blocks[1][0])
    with pytest.raises(AuditError, match=r"no calibration token reaches blocks\.1\.aside"):
        calibrate(model, BATCHES, lambda _: None, layers=model.layers())


def test_inputs_whose_tokens_cannot_be_told_are_refused_by_name():
    model = Model(lambda x, number: x[:, :-1] if number == 1 else x)
    with pytest.raises(AuditError, match=r"blocks\.1\.0 sees inputs of shape .* which belong to tokens"):
        calibrate(model, BATCHES, lambda _: None, layers=model.layers())


def test_flattened_inputs_are_told_by_their_number():
    model, seen = Model(lambda x, number: x.flatten(0, 1) if number == 1 else x), {}
    calibrate(model, BATCHES, seen.update, layers=model.layers())
    assert {one.tokens for one in seen.values()} == {21}


def test_inputs_that_are_not_finite_are_refused_by_name():
    model = Model(lambda x, number: x / 0 if number == 1 else x)
    with pytest.raises(AuditError, match=r"inputs of blocks\.1\.0 on the calibration examples are not finite"):
        calibrate(model, BATCHES, lambda _: None, layers=model.layers())


def test_no_examples_and_examples_that_cannot_be_told_apart_are_refused():
    model = Model()
    with pytest.raises(AuditError, match="no calibration examples"):
        calibrate(model, [], lambda _: None, layers=model.layers())
    alike = BATCHES[0] | {f"decoder_{name}": tensor for name, tensor in BATCHES[0].items()}
    with pytest.raises(ValueError, match="have one length"):
        calibrate(model, [alike], lambda _: None, layers=model.layers())

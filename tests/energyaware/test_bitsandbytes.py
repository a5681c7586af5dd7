"""The defect of bitsandbytes 0.50 on AVX512-BF16 processors, with and without what we do about it."""

from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch

from energyaware.layers import eligible_layers
from energyaware.models import load_model
from energyaware.precision import PRECISIONS
from energyaware.spec import ModelRef
from tests.tiny import save_llama

HAS_AVX512_BF16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()


@pytest.fixture(scope="module")
def ref(tmp_path_factory):
    return ModelRef("folder", "m", "x", str(save_llama(tmp_path_factory.mktemp("model"), hidden=128)))


def stored_weights_before_and_after_an_evaluation(model):
    before = {name: layer.weight.data.clone() for name, layer in eligible_layers(model).items()}
    model.eval()
    with torch.no_grad():
        model(torch.ones(1, 4, dtype=torch.int64))
    return before, {name: layer.weight.data for name, layer in eligible_layers(model).items()}


def unchanged(before, after):
    return all(before[name].shape == after[name].shape and torch.equal(before[name], after[name]) for name in before)


def test_an_evaluation_leaves_the_weights_as_they_were(ref):
    model = load_model(ref, PRECISIONS["nf4"], "cpu")
    assert all(isinstance(layer, bnb.nn.Linear4bit) for layer in eligible_layers(model).values())
    assert unchanged(*stored_weights_before_and_after_an_evaluation(model))


@pytest.mark.skipif(not HAS_AVX512_BF16, reason="not reproducible here: the processor has no AVX512-BF16")
def test_without_our_setting_an_evaluation_would_rewrite_them(ref):
    model = load_model(ref, PRECISIONS["nf4"], "cpu")
    for layer in eligible_layers(model).values():
        layer.support_avx512bf16_for_cpu = True  # as bitsandbytes sets it on such a processor
    assert not unchanged(*stored_weights_before_and_after_an_evaluation(model))

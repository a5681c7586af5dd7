"""Defects of bitsandbytes 0.50.2 on CPUs: each as it is with what we do about it, and as it would be without."""

import copy
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from energyaware.layers import dense_weight, eligible_layers
from energyaware.models import load_model
from energyaware.precision import PRECISIONS
from energyaware.precision.bitsandbytes_layers import mend
from energyaware.spec import ModelRef
from tests.tiny import save_llama

CPUINFO = Path("/proc/cpuinfo")
repacks = pytest.mark.skipif(
    not CPUINFO.exists() or "avx512_bf16" not in CPUINFO.read_text(),
    reason="not reproducible here: the processor has no AVX512-BF16",
)
has_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="not reproducible here: the processor has no AVX512"
)
four_bits = pytest.mark.parametrize("name", ["fp4", "nf4", "nf4-dq"])


@pytest.fixture(scope="module")
def ref(tmp_path_factory):
    return ModelRef("folder", "m", "x", str(save_llama(tmp_path_factory.mktemp("model"), hidden=128)))


def without_what_we_do(model):
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.__class__ = bnb.nn.Linear4bit
            module.support_avx512bf16_for_cpu = True  # as bitsandbytes sets it on such a processor
    return model


def evaluate(model):
    with torch.no_grad():
        return model.eval()(torch.arange(1, 9).view(1, -1)).logits


def adapter_gradients(model):
    ids = torch.arange(1, 17).view(2, 8)
    model.train().zero_grad()
    model(ids, labels=ids).loss.backward()
    return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.requires_grad])


def change_of_gradients_by_an_evaluation(model):
    """Relative to the gradients of the same model that was not evaluated before."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=list(eligible_layers(model)), init_lora_weights=False)
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    expected = adapter_gradients(copy.deepcopy(adapted))
    evaluate(adapted)
    return float((adapter_gradients(adapted) - expected).norm() / expected.norm())


def change_of_saved_weights_by_an_evaluation(model, folder):
    """Largest relative change of a layer's weight as others read it from the folder."""
    expected = {name: dense_weight(layer).clone() for name, layer in eligible_layers(model).items()}
    evaluate(model)
    model.save_pretrained(folder)
    layers = eligible_layers(type(model).from_pretrained(folder, device_map={"": "cpu"}))
    assert layers.keys() == expected.keys()
    return max(float((dense_weight(layers[name]) - w).norm() / w.norm()) for name, w in expected.items())


@four_bits
def test_an_evaluation_leaves_the_weights_as_they_were(ref, name):
    model = load_model(ref, PRECISIONS[name], "cpu")
    before = {path: layer.weight.data.clone() for path, layer in eligible_layers(model).items()}
    evaluate(model)
    assert all(torch.equal(layer.weight.data, before[path]) for path, layer in eligible_layers(model).items())


@four_bits
def test_gradients_of_an_adapter_are_right_after_an_evaluation(ref, name):
    assert change_of_gradients_by_an_evaluation(load_model(ref, PRECISIONS[name], "cpu")) < 1e-6


@repacks
@four_bits
@pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit. an autograd kernel was not registered:UserWarning")
def test_without_our_setting_gradients_would_be_wrong(ref, name):
    model = without_what_we_do(load_model(ref, PRECISIONS[name], "cpu"))
    assert change_of_gradients_by_an_evaluation(model) > 0.1


@four_bits
def test_weights_saved_after_an_evaluation_are_right(ref, name, tmp_path):
    assert change_of_saved_weights_by_an_evaluation(load_model(ref, PRECISIONS[name], "cpu"), tmp_path) == 0


@repacks
@four_bits
def test_without_our_setting_saved_weights_would_be_corrupt(ref, name, tmp_path):
    model = without_what_we_do(load_model(ref, PRECISIONS[name], "cpu"))
    assert change_of_saved_weights_by_an_evaluation(model, tmp_path) > (0.001 if name == "nf4-dq" else 0.1)


# out_features not a multiple of 32; in_features not a multiple of 64, even and odd; both; sizes of GPT-2 and Falcon
CRASHING = [(48, 64), (1, 64), (64, 32), (64, 80), (64, 96), (96, 160), (64, 65), (3, 5), (31, 63), (40, 40)]
FITTING = [(32, 64), (64, 128), (96, 768)]


def layer_4bit(rows, columns, name):
    options = PRECISIONS[name].options
    kept_as = {
        "compress_statistics": options.get("bnb_4bit_use_double_quant", False),
        "quant_type": options["bnb_4bit_quant_type"],
    }
    torch.manual_seed(rows * columns)
    dense = nn.Linear(columns, rows).to(torch.bfloat16)
    nn.init.normal_(dense.weight)  # blocks of differing scales
    layer = bnb.nn.Linear4bit(columns, rows, compute_dtype=torch.bfloat16, **kept_as)
    layer.weight = bnb.nn.Params4bit(dense.weight.data.clone(), requires_grad=False, module=layer, **kept_as).to("cpu")
    layer.bias = dense.bias
    return nn.Sequential(layer).eval(), dense.requires_grad_(requires_grad=False)


@four_bits
@pytest.mark.parametrize(("rows", "columns"), CRASHING + FITTING)
def test_layers_of_every_shape_compute_what_their_weights_say(name, rows, columns):
    model, dense = layer_4bit(rows, columns, name)
    mend(model)
    weight = dense_weight(model[0]).double()
    assert float((weight - dense.weight).norm() / dense.weight.norm()) < 0.15
    x = torch.randn(3, 2, columns, dtype=torch.bfloat16)
    expected = x.double() @ weight.T + dense.bias.double()
    for trains in (False, True):
        found = model.train(trains)(x)
        assert float((found.double() - expected).norm() / expected.norm()) < 0.01
    x.requires_grad_()
    model(x).float().sum().backward()
    gradient = weight.sum(0).expand_as(x)
    assert float((x.grad.double() - gradient).norm() / gradient.norm()) < 0.01


@repacks
@four_bits
@pytest.mark.parametrize(("rows", "columns"), CRASHING)
def test_without_our_setting_such_shapes_would_raise(name, rows, columns):
    model, _ = layer_4bit(rows, columns, name)
    with pytest.raises((AssertionError, RuntimeError), match=r"must be|is invalid for input of size"), torch.no_grad():
        without_what_we_do(model)(torch.randn(2, columns, dtype=torch.bfloat16))


@has_avx512
@four_bits
@pytest.mark.parametrize(("rows", "columns"), [(64, 32), (64, 80), (64, 96), (96, 160)])
def test_bitsandbytes_itself_would_compute_with_other_scales(name, rows, columns):
    model, dense = layer_4bit(rows, columns, name)
    model[0].support_avx512bf16_for_cpu = False
    weight = model[0].weight
    wrong = bnb.functional.dequantize_4bit(weight.data, weight.quant_state).double()
    right = dense_weight(model[0]).double()
    assert (wrong - dense.weight).norm() > 1.3 * (right - dense.weight).norm()
    x = torch.randn(2, columns, dtype=torch.bfloat16)
    expected = x.double() @ right.T + dense.bias.double()
    assert float((model(x).double() - expected).norm() / expected.norm()) > 0.02


@pytest.mark.parametrize(("rows", "columns"), CRASHING + FITTING)
def test_8_bit_layers_of_every_shape_compute_what_their_weights_say(rows, columns):
    torch.manual_seed(rows * columns)
    dense = nn.Linear(columns, rows).to(torch.bfloat16).requires_grad_(requires_grad=False)
    layer = bnb.nn.Linear8bitLt(columns, rows, has_fp16_weights=False, threshold=6.0)
    layer.weight = bnb.nn.Int8Params(dense.weight.data.clone(), requires_grad=False).to("cpu")
    layer.bias = dense.bias
    x = torch.randn(3, 2, columns, dtype=torch.bfloat16)
    for trains in (False, True):
        found = layer.train(trains)(x).double()
        expected = x.double() @ dense_weight(layer).double().T + dense.bias.double()
        assert float((found - expected).norm() / expected.norm()) < 0.03

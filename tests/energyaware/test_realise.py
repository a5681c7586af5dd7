"""What becomes of a pruning: on sparse kernels, simulated, or physical. Kernels themselves need a GPU."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)
from transformers.pytorch_utils import Conv1D

from energyaware.errors import AuditError
from energyaware.layers import eligible_layers, weight_matrix
from energyaware.models import load_model
from energyaware.precision import PRECISIONS, Hardware
from energyaware.precision.float8_linear import Float8Linear
from energyaware.pruning.patterns import NofM, Unstructured
from energyaware.realise import SHAPE_MULTIPLES, kernel_refusal, obstacle, realise
from energyaware.rows import STAGES
from energyaware.spec import ModelRef, Pruning
from tests.tiny import save_llama

TWO_OF_FOUR = Pruning("magnitude", 0.5, "2:4", "after")
HALF = Pruning("magnitude", 0.5, "unstructured", "after")
HEADS = Pruning("heads", 0.5, "structured", "after")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def demanded(pruning):
    return dataclasses.replace(pruning, realisation="semi-structured-kernel")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("model"), hidden=128)


def pruned(folder, pattern, precision="bf16", device="cpu"):
    """A model and its masks: the largest weights of each layer stay."""
    model = load_model(ModelRef("folder", "m", "x", str(folder)), PRECISIONS[precision], device).eval()
    masks = {}
    for name, layer in eligible_layers(model).items():
        weight = weight_matrix(layer)
        masks[name] = pattern.keep_highest(weight.float().abs())
        weight.mul_(masks[name])
    return model, masks


def two_of_four(rows, columns, dtype=torch.bfloat16):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)
    return weight * NofM(2, 4).keep_highest(weight.float().abs())


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data = weight
    return layer


def test_nothing_pruned_is_none_and_removed_structures_are_physical(folder):
    model, masks = pruned(folder, Unstructured(0.0))
    assert realise(model, {}, Pruning()).realisation == "none"
    assert realise(model, masks, Pruning()).columns == {
        "realisation": "none", "realised_layers": 0, "realised_share": None, "unrealised_layers": []
    }  # fmt: skip
    physical = realise(model, {}, HEADS)
    assert (physical.realisation, physical.realised_layers, physical.realised_share) == ("physical", None, 1.0)


def test_on_a_cpu_a_pruning_is_simulated_and_says_why(folder):
    model, masks = pruned(folder, NofM(2, 4))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    found = realise(model, masks, TWO_OF_FOUR)
    assert (found.realisation, found.realised_layers, found.realised_share) == ("simulated", 0, 0.0)
    assert found.unrealised == ("all layers: no sparse kernels on CPUs",)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_what_was_asked_to_be_simulated_is_not_tried(folder):
    found = realise(*pruned(folder, NofM(2, 4)), dataclasses.replace(TWO_OF_FOUR, realisation="simulated"))
    assert (found.realisation, found.unrealised) == ("simulated", ("all layers: simulated was asked for",))


def test_kernels_that_were_demanded_and_cannot_be_had_are_an_error_with_the_reason(folder):
    with pytest.raises(AuditError, match=r"magnitude-2:4: no layer could be put on sparse kernels: .*CPUs"):
        realise(*pruned(folder, NofM(2, 4)), demanded(TWO_OF_FOUR))
    with pytest.raises(AuditError, match=r"all layers: its weights are not 2:4"):
        realise(*pruned(folder, Unstructured(0.5)), demanded(HALF))
    with pytest.raises(AuditError, match=r"its weights are float32, not 16-bit"):
        realise(*pruned(folder, NofM(2, 4), "fp32"), demanded(TWO_OF_FOUR))


def test_layers_are_listed_one_by_one_where_reasons_differ(folder):
    model, masks = pruned(folder, NofM(2, 4))
    other = "model.layers.0.mlp.up_proj"
    model.get_submodule(other).weight.data.fill_(1)
    kept = "model.layers.1.mlp.up_proj"
    masks[kept] = torch.ones_like(masks[kept])  # a layer that an override leaves alone is not pruned
    found = realise(model, masks, TWO_OF_FOUR)
    assert len(found.unrealised) == len(masks) - 1
    assert f"{other}: its weights are not 2:4" in found.unrealised
    assert not any(text.startswith(kept) for text in found.unrealised)


def test_columns_are_those_of_the_stage_table(folder):
    columns = realise(*pruned(folder, NofM(2, 4)), TWO_OF_FOUR).columns
    assert columns.keys() <= {column.name for column in STAGES}


@pytest.mark.parametrize("backend", SHAPE_MULTIPLES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shapes_are_those_that_torch_takes(backend, dtype):
    kind = {"cusparselt": SparseSemiStructuredTensorCUSPARSELT, "cutlass": SparseSemiStructuredTensorCUTLASS}[backend]
    constraints = kind._DTYPE_SHAPE_CONSTRAINTS[dtype]
    rows, columns = SHAPE_MULTIPLES[backend]
    assert (rows, columns) == (constraints.sparse_min_rows, constraints.sparse_min_cols)
    assert obstacle(linear(two_of_four(rows, 3 * columns, dtype)), backend) is None
    assert "is not a multiple of" in obstacle(linear(two_of_four(rows, columns + 4, dtype)), backend)
    assert "is not a multiple of" in obstacle(linear(two_of_four(rows + 1, columns, dtype)), backend)


@pytest.mark.parametrize("backend", SHAPE_MULTIPLES)
def test_what_stays_dense_and_why(backend):
    weight = two_of_four(64, 128)
    assert obstacle(linear(weight), backend) is None
    assert obstacle(linear(weight.float()), backend) == "its weights are float32, not 16-bit"
    assert obstacle(Float8Linear(weight, None), backend) == "its weights are quantised"
    transposed = Conv1D(64, 128)
    transposed.weight.data = weight.T.contiguous()
    assert obstacle(transposed, backend) == "it stores its weight as (in, out)"
    three = weight.clone()
    three[5, 8:12] = torch.tensor([1.0, 2.0, 3.0, 0.0])
    assert obstacle(linear(three), backend) == "its weights are not 2:4"
    four_of_eight = torch.zeros(64, 128, dtype=torch.bfloat16)
    four_of_eight[:, 0::8] = four_of_eight[:, 1::8] = four_of_eight[:, 2::8] = four_of_eight[:, 3::8] = 1
    assert obstacle(linear(four_of_eight), backend) == "its weights are not 2:4"
    fewer = weight.clone()
    fewer[:, :64] = 0
    assert obstacle(linear(fewer), backend) is None


@pytest.mark.parametrize("zeros", [0, 64])
def test_what_is_let_through_loses_nothing_in_torchs_compression(zeros):
    """CUTLASS' format is made in plain torch: what it keeps can be seen without a GPU."""
    weight = two_of_four(64, 128)
    weight[:, :zeros] = 0
    assert obstacle(linear(weight), "cutlass") is None
    assert torch.equal(
        sparse_semi_structured_to_dense_cutlass(*sparse_semi_structured_from_dense_cutlass(weight)), weight
    )


def test_what_is_held_back_would_lose_weights_there():
    weight = torch.randn(64, 128).to(torch.bfloat16)
    packed = sparse_semi_structured_from_dense_cutlass(weight)
    assert obstacle(linear(weight), "cutlass") == "its weights are not 2:4"
    assert not torch.equal(sparse_semi_structured_to_dense_cutlass(*packed), weight)


AMPERE, TURING, UNKNOWN = (Hardware("cuda", capability) for capability in ((8, 0), (7, 5), None))


@pytest.mark.parametrize(
    ("pruning", "precision", "hardware", "reason"),
    [
        (TWO_OF_FOUR, "bf16", Hardware("cpu"), None),
        (demanded(Pruning()), "bf16", Hardware("cpu"), None),
        (demanded(TWO_OF_FOUR), "bf16", AMPERE, None),
        (demanded(TWO_OF_FOUR), "fp16", UNKNOWN, None),
        (demanded(TWO_OF_FOUR), "bf16", TURING, "need compute capability 8.0"),
        (demanded(TWO_OF_FOUR), "bf16", Hardware("cpu"), "need an NVIDIA GPU"),
        (demanded(TWO_OF_FOUR), "fp32", AMPERE, "take 16-bit weights, not fp32"),
        (demanded(TWO_OF_FOUR), "nf4-dq", AMPERE, "take 16-bit weights, not nf4-dq"),
        (demanded(TWO_OF_FOUR), "fp8", AMPERE, "take 16-bit weights, not fp8"),
        (demanded(HALF), "bf16", AMPERE, "magnitude-50% has no sparse kernel"),
        (demanded(HEADS), "bf16", AMPERE, "heads-50% has no sparse kernel"),
        (demanded(dataclasses.replace(HALF, overrides=(("*.up_proj", "2:4"),))), "bf16", AMPERE, None),
    ],
)
def test_demanded_kernels_are_refused_in_the_plan(pruning, precision, hardware, reason):
    found = kernel_refusal(pruning, precision, hardware)
    assert (reason is None) == (found is None)
    if reason:
        assert reason in found
        assert "\n" not in found
        assert "realisation auto" in found


@on_gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_on_a_gpu_layers_are_put_on_sparse_kernels_and_compute_the_same(folder, precision):
    model, masks = pruned(folder, NofM(2, 4), precision, "cuda")
    odd = "model.layers.0.mlp.up_proj"
    model.get_submodule(odd).weight.data.fill_(0.01)
    ids = torch.arange(1, 33, device="cuda").view(2, 16)
    with torch.inference_mode():
        dense = model(ids).logits.float()
    found = realise(model, masks, demanded(TWO_OF_FOUR))
    assert (found.realisation, found.realised_layers) == ("semi-structured-kernel", len(masks) - 1)
    assert found.unrealised == (f"{odd}: its weights are not 2:4",)
    assert 0.8 < found.realised_share < 1
    with torch.inference_mode():
        assert (model(ids).logits.float() - dense).norm() < 0.03 * dense.norm()

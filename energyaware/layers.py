"""The layers that pruning and quantisation are about, seen alike in every model family.

Eligible are the linear layers of the model's body: `nn.Linear`, its subclasses (Falcon's, bitsandbytes') and GPT-2's
`Conv1D`, whose weight is stored (in, out). Not the output head, not embeddings, not norms, not routers of mixtures of
experts, not a weight that an embedding shares. What else is a matrix is unseen: experts kept as one fused parameter.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

from energyaware.families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

ROUTER_NAMES: Final = frozenset({"router", "gate", "shared_expert_gate"})


def eligible_layers(model: Any) -> dict[str, Any]:
    """Linear layers of the model's body by their name in it, without the adapters that may be on them."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings().weight
    return {
        name: layer
        for name, layer in base_modules(model)
        if isinstance(layer, nn.Linear | Conv1D)
        and layer is not head
        and layer.weight is not embedding
        and name.rpartition(".")[2] not in ROUTER_NAMES
    }


def unseen_matrices(model: Any) -> dict[str, nn.Parameter]:
    """Weight matrices of the body that no eligible layer holds, by their name in the model.

    transformers 5 keeps the experts of a mixture as one parameter (experts, out, in), which nothing that replaces or
    masks linear layers sees. Embeddings, output head, routers and biases are not counted.
    """
    from torch import nn

    layers = {id(layer) for layer in eligible_layers(model).values()}
    seen = {id(model.get_input_embeddings().weight)}
    head = model.get_output_embeddings()
    unseen = {}
    for name, module in base_modules(model):
        if module is head or isinstance(module, nn.Embedding) or not ROUTER_NAMES.isdisjoint(name.split(".")):
            continue
        for field, parameter in module.named_parameters(recurse=False):
            if id(module) in layers or parameter.ndim < 2 or field.endswith("bias") or id(parameter) in seen:  # noqa: PLR2004
                continue
            seen.add(id(parameter))
            unseen[f"{name}.{field}" if name else field] = parameter
    return unseen


def plain_layers(model: Any) -> dict[str, Any]:
    """Eligible layers with dense weights that compute exactly what nn.Linear does, so that another may replace them."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    family = FAMILIES.get(model.config.model_type)
    subclasses = family.plain_linear if family else frozenset()
    return {
        name: layer
        for name, layer in eligible_layers(model).items()
        if type(layer) in {nn.Linear, Conv1D} or type(layer).__name__ in subclasses
    }


def base_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Modules by name, adapters left out: in the place of an adapted layer stands the layer itself."""
    adapted = ""
    for name, module in model.named_modules():
        if adapted and name.startswith(adapted):
            continue  # the layer under an adapter, and the adapter's own layers
        if hasattr(module, "get_base_layer"):
            adapted = f"{name}."
        yield name, without_adapter(module)


def without_adapter(module: Any) -> Any:
    """The layer under a peft adapter, whose class may have the layer's own name; the module itself elsewhere."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def layer_named(model: Any, name: str) -> Any:
    """The layer of that name, without the adapter that may be on it."""
    return without_adapter(model.get_submodule(name))


def is_transposed(layer: nn.Module) -> bool:
    """Whether the layer stores its weight as (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def weight_matrix(layer: Any) -> Tensor:
    """The layer's weight as (out_features, in_features): a view, writing to it writes to the layer."""
    weight: Tensor = layer.weight.data
    return weight.T if is_transposed(layer) else weight


def is_quantised(layer: Any) -> bool:
    """Whether the layer holds quantised weights."""
    return type(layer).__name__ in {"Linear4bit", "Linear8bitLt", "Float8Linear"}


def storage_format(layer: Any) -> str:
    """What the layer's weights are stored as: float32, bfloat16, float16, int8, fp4, nf4 or float8_e4m3fn."""
    kind = type(layer).__name__
    if kind == "Float8Linear":
        return "float8_e4m3fn"
    if kind == "Linear4bit" and layer.weight.quant_state is not None:
        return str(layer.weight.quant_state.quant_type)
    return str(layer.weight.dtype).removeprefix("torch.")


def dense_weight(layer: Any) -> Tensor:
    """The layer's weight as it computes: (out_features, in_features), dequantised where it is quantised."""
    kind = type(layer).__name__
    if kind == "Linear4bit":
        return dequantised_4bit(layer.weight)
    if kind == "Linear8bitLt":
        scale = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        scaled: Tensor = layer.weight.data.float() * (scale.float() / 127).unsqueeze(1)
        return scaled
    if kind == "Float8Linear":
        dequantised: Tensor = layer.dequantised()
        return dequantised
    return weight_matrix(layer)


def dequantised_4bit(weight: Any) -> Tensor:
    """A bitsandbytes 4-bit weight as (out_features, in_features), dequantised as the one row it was quantised as.

    bitsandbytes 0.50.2 on AVX512 takes wrong scales where a row does not end with a block of 64 weights and its
    length is a multiple of 16 (96, 160, 224): twice the error of 4-bit quantisation, without a word.
    """
    import bitsandbytes as bnb
    import torch

    one_row = copy.copy(weight.quant_state)
    one_row.shape = torch.Size((1, weight.quant_state.shape.numel()))
    flat: Tensor = bnb.functional.dequantize_4bit(weight.data, one_row)
    return flat.view(weight.quant_state.shape)

"""The layers that pruning and quantisation are about, seen alike in every model family.

Eligible are the linear layers of the model's body: `nn.Linear`, its subclasses (Falcon's, bitsandbytes') and GPT-2's
`Conv1D`, whose weight is stored (in, out). Not the output head, not embeddings, not norms, not routers of mixtures of
experts, not a weight that an embedding shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor, nn

ROUTER_NAMES: Final = frozenset({"router", "gate", "shared_expert_gate"})


def eligible_layers(model: Any) -> dict[str, Any]:
    """Linear layers of the model's body by their name in it, without the adapters that may be on them."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings().weight
    layers, adapted = {}, ""
    for name, module in model.named_modules():
        if adapted and name.startswith(adapted):
            continue  # an adapter's own layers
        if hasattr(module, "get_base_layer"):
            adapted = f"{name}."
        layer = without_adapter(module)
        if (
            isinstance(layer, nn.Linear | Conv1D)
            and layer is not head
            and layer.weight is not embedding
            and name.rpartition(".")[2] not in ROUTER_NAMES
        ):
            layers[name] = layer
    return layers


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
    return type(layer).__name__ in {"Linear4bit", "Linear8bitLt"}


def dense_weight(layer: Any) -> Tensor:
    """The layer's weight as it computes: (out_features, in_features), dequantised where it is quantised."""
    if type(layer).__name__ == "Linear4bit":
        import bitsandbytes as bnb

        dequantised: Tensor = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return dequantised
    if type(layer).__name__ == "Linear8bitLt":
        scale = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        scaled: Tensor = layer.weight.data.float() * (scale.float() / 127).unsqueeze(1)
        return scaled
    return weight_matrix(layer)

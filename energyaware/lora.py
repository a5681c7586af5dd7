"""Low-rank adapters (Hu et al., 2021, arXiv 2106.09685) that respect a mask.

An ordinary adapter is dense: merged into a sparse weight it leaves no zero. Under a mask M the adapted weight is
W + M * (scale * B A), in training as in serving, so that it is sparse by construction.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.layers import eligible_layers, is_transposed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from energyaware.masks import Masks
    from energyaware.spec import FinetuneSpec

ADAPTER: Final = "default"


def add_adapter(model: Any, spec: FinetuneSpec, masks: Masks) -> Any:
    """The model with a new adapter on all eligible layers; only the adapter requires gradients."""
    from peft import LoraConfig, get_peft_model

    layers = eligible_layers(model)
    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=list(layers),
        fan_in_fan_out=any(is_transposed(layer) for layer in layers.values()),
        bias="none",
    )
    return _mask_adapter(get_peft_model(model, config, autocast_adapter_dtype=False), masks)


def load_adapter(model: Any, folder: Path, masks: Masks) -> Any:
    """The model with a saved adapter, unmerged."""
    from peft import PeftModel

    return _mask_adapter(PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False), masks)


def merge_adapter(model: Any, masks: Masks) -> Any:
    """The plain model with W + M * (scale * B A) in each layer's weight, which must not be quantised."""
    for name, layer in _adapted(model):
        change = layer.get_delta_weight(ADAPTER)  # in the orientation of the layer's weight
        if name in masks:
            change = change * (masks[name].T if is_transposed(layer.get_base_layer()) else masks[name])
        layer.get_base_layer().weight.data += change
    return model.unload()


def _mask_adapter(model: Any, masks: Masks) -> Any:
    for name, layer in _adapted(model):
        if name in masks:
            layer.forward = _MaskedForward(layer, masks[name])
    return model


class _MaskedForward:
    """Forward of one adapted layer whose change of weight is masked."""

    def __init__(self, layer: Any, mask: Tensor) -> None:
        self._layer, self._mask = layer, mask

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        import torch

        layer, down, up = self._layer, self._layer.lora_A[ADAPTER], self._layer.lora_B[ADAPTER]
        result: Tensor = layer.base_layer(x, *args, **kwargs)
        x = layer.lora_dropout[ADAPTER](x.to(down.weight.dtype))
        # Through the modules' own forward and not through their weights: under ZeRO 3 weights are there only then.
        change = up(down(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)))  # (in, out)
        change = change * self._mask.T.to(device=x.device) * layer.scaling[ADAPTER]
        return torch.add(result, (x @ change).to(result.dtype))


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    """Layers with an adapter, under the names they have in the plain model."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            yield name, module

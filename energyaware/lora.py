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
    adapted = _in_one_format(get_peft_model(model, config, autocast_adapter_dtype=False))
    return _mask_adapter(adapted, masks, _TrainedForward)


def load_adapter(model: Any, folder: Path, masks: Masks) -> Any:
    """The model with a saved adapter, unmerged, to serve or to merge.

    Under a mask each layer holds its change of weight, as large as the weight in the adapter's format: made anew for
    every token, it would cost several times the layer's own work.
    """
    from peft import PeftModel

    adapted = _in_one_format(PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False))
    return _mask_adapter(adapted, masks, _ServedForward)


def merge_adapter(model: Any, masks: Masks) -> Any:
    """The plain model with W + M * (scale * B A) in each layer's weight, which must not be quantised."""
    for name, layer in _adapted(model):
        change = layer.get_delta_weight(ADAPTER)  # in the orientation of the layer's weight
        if name in masks:
            stays = masks[name].T if is_transposed(layer.get_base_layer()) else masks[name]
            change = change * stays.to(change.device)
        layer.get_base_layer().weight.data += change
    return model.unload()


def _in_one_format(model: Any) -> Any:
    """The adapted model, with adapters in what it computes in: over weights that are integers peft leaves float32."""
    dtype = model.get_base_model().dtype  # of its embeddings, which come first and have no adapter
    for _, layer in _adapted(model):
        if not layer.get_base_layer().weight.is_floating_point():
            layer.lora_A.to(dtype)
            layer.lora_B.to(dtype)
    return model


def _mask_adapter(model: Any, masks: Masks, forward: type[_TrainedForward | _ServedForward]) -> Any:
    for name, layer in _adapted(model):
        if name in masks and not bool(masks[name].all()):  # a layer left whole adapts as usual
            layer.forward = forward(layer, masks[name])
    return model


class _TrainedForward:
    """Forward of an adapted layer whose change of weight is masked and moves with the adapter."""

    def __init__(self, layer: Any, mask: Tensor) -> None:
        self._layer, self._mask = layer, mask
        for part in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
            part.forward = _Weight(part)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        from energyaware.masked_change import masked_change

        layer, down, up = self._layer, self._layer.lora_A[ADAPTER](), self._layer.lora_B[ADAPTER]()
        if self._mask.device != x.device:
            self._mask = self._mask.to(x.device)
        result: Tensor = layer.base_layer(x, *args, **kwargs)
        x = layer.lora_dropout[ADAPTER](x.to(down.dtype))
        return result + masked_change(x, down, up, self._mask, layer.scaling[ADAPTER]).to(result.dtype)


class _Weight:
    """Forward of a linear layer that gives its weight away.

    Under ZeRO 3 a weight is whole only while its module's own forward runs, and its memory is used again afterwards:
    hence a copy, of the few rows or columns that an adapter has.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self) -> Tensor:
        weight: Tensor = self._layer.weight.clone()
        return weight


class _ServedForward:
    """Forward of an adapted layer whose change of weight is masked and stays as it is."""

    def __init__(self, layer: Any, mask: Tensor) -> None:
        from energyaware.masked_change import weight_change

        down, up = layer.lora_A[ADAPTER].weight.detach(), layer.lora_B[ADAPTER].weight.detach()
        change = weight_change(down, up, mask.to(down.device), layer.scaling[ADAPTER])
        layer.register_buffer("masked_change", change, persistent=False)
        self._layer = layer

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        from torch.nn.functional import linear

        result: Tensor = self._layer.base_layer(x, *args, **kwargs)
        change = self._layer.masked_change
        return result + linear(x.to(change.dtype), change).to(result.dtype)


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    """Layers with an adapter, under the names they have in the plain model."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            yield name, module

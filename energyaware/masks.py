"""Masks: which weights a pruning keeps, and the proof that they still hold.

A mask is a bool tensor (out_features, in_features), True where a weight stays, under its layer's name. Sparsity is
counted on masks: quantisation makes zeros of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.errors import AuditError
from energyaware.layers import dense_weight, is_transposed, layer_named, weight_matrix
from energyaware.pruning.base import Masks
from energyaware.pruning.overrides import patterns_by_layer

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.spec import Pruning

__all__ = [
    "Masks",
    "achieved_sparsity",
    "apply_masks",
    "keep_through_training",
    "load_masks",
    "pruned_layers",
    "save_masks",
    "target_sparsity",
]

FILE_NAME: Final = "masks.safetensors"


def apply_masks(model: Any, masks: Masks) -> None:
    """Set the weights that do not stay to zero."""
    for name, mask in masks.items():
        weight = weight_matrix(layer_named(model, name))
        weight.masked_fill_(~mask.to(weight.device), 0)


def keep_through_training(model: Any, masks: Masks) -> None:
    """Let masked weights stay zero while the model trains: their gradients are zeroed as they arise.

    Must be called before the optimizer is built. Zeroing weights after the step does not do: under ZeRO 3 the local
    weight is empty, under 1 and 2 the optimizer's own copy drifts.
    """
    for name, mask in masks.items():
        if bool(mask.all()):
            continue
        layer = layer_named(model, name)
        stays = (mask.T if is_transposed(layer) else mask).to(layer.weight.device)
        layer.weight.register_hook(lambda gradient, stays=stays: gradient * stays)


def achieved_sparsity(model: Any, masks: Masks) -> float:
    """Share of weights of the masked layers that are removed, after checking that each of them is zero.

    Raises:
        AuditError: a masked weight is not zero: the mask was lost.
    """
    removed = total = 0
    for name, mask in masks.items():
        weight = dense_weight(layer_named(model, name))
        gone = ~mask.to(weight.device)
        if bool((weight[gone] != 0).any()):
            lost = int((weight[gone] != 0).sum())
            raise AuditError(f"the mask was lost: {lost} of {int(gone.sum())} removed weights of {name} are not zero")
        removed += int(gone.sum())
        total += mask.numel()
    return removed / total if total else 0.0


def target_sparsity(masks: Masks, pruning: Pruning) -> float:
    """Share of weights asked for over all masked layers, overrides included; layers count by their weights.

    Raises:
        AuditError: an override matches none of the masks' layers.
    """
    patterns = patterns_by_layer(masks, pruning)
    asked = sum(mask.numel() * pattern.sparsity for name, mask in masks.items() if (pattern := patterns[name]))
    return asked / sum(mask.numel() for mask in masks.values()) if masks else 0.0


def pruned_layers(masks: Masks) -> int:
    """Layers that lost a weight; an override can leave others whole."""
    return sum(not bool(mask.all()) for mask in masks.values())


def save_masks(masks: Masks, folder: Path) -> None:
    """Write masks.safetensors, one bit per weight; nothing where there are no masks.

    Tensors are uint8, bits in the order of the flattened mask with the first in the highest place (numpy.packbits);
    shapes are in the file's metadata, as JSON under "shapes".
    """
    from safetensors.torch import save_file

    if masks:
        shapes = {name: list(mask.shape) for name, mask in masks.items()}
        packed = {name: _packed(mask) for name, mask in masks.items()}
        save_file(packed, folder / FILE_NAME, metadata={"shapes": json.dumps(shapes)})


def load_masks(folder: Path) -> Masks:
    """Masks of a folder, on the CPU; none where it has no mask file."""
    from safetensors import safe_open

    path = folder / FILE_NAME
    if not path.exists():
        return {}
    with safe_open(path, "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        return {name: _unpacked(file.get_tensor(name), shape) for name, shape in shapes.items()}


def _packed(mask: Tensor) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def _unpacked(bits: Tensor, shape: list[int]) -> Tensor:
    import numpy as np
    import torch

    rows, columns = shape
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=rows * columns).view(bool).reshape(shape))

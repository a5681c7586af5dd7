"""Masks: which weights a pruning keeps, from making them to proving that they still hold.

A mask is a bool tensor (out_features, in_features), True where a weight stays, under its layer's name. Sparsity is
counted on masks: quantisation makes zeros of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.errors import AuditError
from energyaware.layers import dense_weight, eligible_layers, is_transposed, layer_named, weight_matrix
from energyaware.pruning import PRUNERS
from energyaware.pruning.patterns import make_pattern
from energyaware.rows import Row

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.spec import Pruning

Masks = dict[str, "Tensor"]

FILE_NAME: Final = "masks.safetensors"


def make_masks(model: Any, pruning: Pruning) -> Masks:
    """Masks of all eligible layers of a model in full precision.

    Raises:
        AuditError: a layer's shape cannot have the pattern; the message names it.
    """
    pruner, pattern = PRUNERS[pruning.kind], make_pattern(pruning.pattern, pruning.sparsity)
    masks = {}
    for name, layer in eligible_layers(model).items():
        weight = weight_matrix(layer)
        if problem := pattern.refusal((weight.shape[0], weight.shape[1])):
            raise AuditError(f"{pruning.label}: layer {name}: {problem}")
        masks[name] = pruner.keep(weight.float(), pattern)
    return masks


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


def pruning_columns(masks: Masks, pruning: Pruning) -> Row:
    """What the masks mean, as columns of the stage's row; so far every pruning is zeros on dense kernels."""
    return {
        "pruned_layers": len(masks),
        "sparsity_target": pruning.sparsity if masks else 0.0,
        "realisation": "simulated" if masks else "none",
    }


def save_masks(masks: Masks, folder: Path) -> None:
    """Write masks.safetensors; nothing where there are no masks."""
    from safetensors.torch import save_file

    if masks:
        save_file({name: mask.contiguous() for name, mask in masks.items()}, folder / FILE_NAME)


def load_masks(folder: Path) -> Masks:
    """Masks of a folder, none where it has no mask file."""
    from safetensors.torch import load_file

    path = folder / FILE_NAME
    return load_file(path) if path.exists() else {}

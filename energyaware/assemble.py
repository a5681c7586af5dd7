"""The chain from a base model to the model a stage works on.

    high precision -> masks or fine-tuned weights -> prune -> plain weights and mask file -> reload in target precision

Pruning comes before quantisation: the pattern survives nf4 and int8, and the error is smaller than the other way
round. One rank does the work on the CPU and leaves plain weights in a scratch folder; all ranks load from there.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.energy.windows import synchronise
from energyaware.lora import load_adapter, merge_adapter
from energyaware.masks import Masks, achieved_sparsity, apply_masks, load_masks, make_masks, save_masks
from energyaware.models import load_model
from energyaware.precision import PRECISIONS

if TYPE_CHECKING:
    from energyaware.energy.base import Meter
    from energyaware.spec import FinetuneSpec, InferenceSpec
    from energyaware.stage import Place

HIGH: Final = PRECISIONS["fp32"]


def model_to_train(spec: FinetuneSpec, place: Place, meter: Meter, scratch: Path) -> tuple[Any, Masks]:
    """The base model in the fine-tuning's precision, pruned first if the configuration says before."""
    precision = PRECISIONS[spec.precision]
    if spec.pruning.applied != "before":
        return load_model(spec.model, precision, place.device), {}
    with meter.window("prune"):
        if place.rank == 0:
            model = load_model(spec.model, HIGH, "cpu")
            masks = make_masks(model, spec.pruning)
            apply_masks(model, masks)
            _leave(model, masks, scratch)
        synchronise()
    return load_model(spec.model, precision, place.device, scratch), load_masks(scratch)


def model_to_serve(
    spec: InferenceSpec, place: Place, meter: Meter, artifact: Path | None, scratch: Path
) -> tuple[Any, Masks]:
    """The fine-tuned model in the serving precision, pruned now if the configuration says after.

    Adapters are merged into weights of 16 bits and more, and into what is pruned now. Over quantised weights they
    stay unmerged: merging would quantise again, after the adapter had learnt to make up for the first time.
    """
    precision = PRECISIONS[spec.precision]
    adapter = artifact if spec.finetune_method == "lora" else None
    weights = artifact if spec.finetune_method == "full" else None
    kept_masks = load_masks(artifact) if artifact else {}
    prune_now = spec.pruning.applied == "after"
    unmerged = adapter if precision.quantises and not prune_now else None

    if not prune_now and not adapter:
        return load_model(spec.model, precision, place.device, weights), kept_masks
    if unmerged and not kept_masks:
        return load_adapter(load_model(spec.model, precision, place.device), unmerged, {}), {}

    with meter.window("prune") if prune_now else nullcontext():
        if place.rank == 0:
            model = load_model(spec.model, HIGH, "cpu", weights)
            apply_masks(model, kept_masks)
            if adapter and not unmerged:
                model = merge_adapter(load_adapter(model, adapter, {}), kept_masks)
            masks = make_masks(model, spec.pruning) if prune_now else kept_masks
            apply_masks(model, masks)
            _leave(model, masks, scratch)
        synchronise()
    model, masks = load_model(spec.model, precision, place.device, scratch), load_masks(scratch)
    return (load_adapter(model, unmerged, masks) if unmerged else model), masks


def _leave(model: Any, masks: Masks, folder: Path) -> None:
    """Plain weights and mask file, checked, for all ranks to load."""
    achieved_sparsity(model, masks)
    model.save_pretrained(folder)
    save_masks(masks, folder)


def plain(model: Any) -> Any:
    """The model under its adapter, whose layers have their plain names; the model itself where it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model

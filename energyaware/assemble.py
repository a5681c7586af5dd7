"""The chain from a base model to the model a stage works on.

    high precision -> calibrate -> prune -> plain weights and mask file -> reload in target precision

Pruning comes before quantisation: the pattern survives nf4 and int8, and the error is smaller than the other way
round. One rank prunes and leaves plain weights in a scratch folder; all ranks load from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.energy.windows import synchronise
from energyaware.lora import load_adapter, merge_adapter
from energyaware.masks import apply_masks
from energyaware.models import context_length, load_model
from energyaware.precision import PRECISIONS
from energyaware.pruning import PRUNERS
from energyaware.pruning.calibration import NO_CALIBRATION, calibration_batches
from energyaware.pruning_record import NOT_PRUNED, PruningRecord

if TYPE_CHECKING:
    from energyaware.energy.base import Meter
    from energyaware.spec import FinetuneSpec, InferenceSpec, StageSpec
    from energyaware.stage import Place
    from energyaware.tasks.base import Example

HIGH: Final = PRECISIONS["fp32"]

BASE: Final = "base"
"""Folder in a LoRA stage's artifact with the pruned base weights, where base model and masks do not determine them."""


@dataclass(frozen=True)
class Materials:
    """What a calibrated pruning looks at, unless the sweep names own texts."""

    tokenizer: Any
    examples: Sequence[Example]


def model_to_train(
    spec: FinetuneSpec, place: Place, meter: Meter, scratch: Path, materials: Materials
) -> tuple[Any, PruningRecord]:
    """The base model in the fine-tuning's precision, pruned first if the configuration says before."""
    precision = PRECISIONS[spec.precision]
    if spec.pruning.applied != "before":
        return load_model(spec.model, precision, place.device), NOT_PRUNED
    _prune(lambda: load_model(spec.model, HIGH, place.device), spec, place, meter, scratch, materials)
    return load_model(spec.model, precision, place.device, scratch), PruningRecord.load(scratch)


def keep_base(spec: FinetuneSpec, scratch: Path, artifact: Path) -> None:
    """Put the pruned base weights beside an adapter that needs them."""
    pruner = PRUNERS[spec.pruning.kind]
    if spec.method == "lora" and (pruner.reconstructs or pruner.structured):
        shutil.copytree(scratch, artifact / BASE)


def model_to_serve(
    spec: InferenceSpec, place: Place, meter: Meter, artifact: Path | None, scratch: Path, materials: Materials
) -> tuple[Any, PruningRecord]:
    """The fine-tuned model in the serving precision, pruned now if the configuration says after.

    Adapters are merged in high precision, before the weights are pruned or brought into the serving format. Only over
    the quantised weights that it was trained over an adapter stays unmerged: merging would quantise them again, after
    it had learnt to make up for the first time.
    """
    precision = PRECISIONS[spec.precision]
    adapter = artifact if spec.finetune_method == "lora" else None
    weights = artifact if spec.finetune_method == "full" else None
    if adapter and (adapter / BASE).exists():
        weights = adapter / BASE
    before = PruningRecord.load(artifact) if artifact else NOT_PRUNED
    prune_now = spec.pruning.applied == "after"
    trained_over = precision.quantises and spec.precision == spec.finetune_precision
    unmerged = adapter if trained_over and not prune_now else None

    def fine_tuned() -> Any:
        """In high precision: weights as they were pruned before, the adapter merged unless it is to stay apart."""
        model = load_model(spec.model, HIGH, place.device, weights)
        apply_masks(model, before.masks)
        if adapter and not unmerged:
            return merge_adapter(load_adapter(model, adapter, {}), before.masks)
        return model

    if prune_now:
        _prune(fine_tuned, spec, place, meter, scratch, materials)
        return load_model(spec.model, precision, place.device, scratch), PruningRecord.load(scratch)
    # Weights on the disk can be loaded as they are, unless a mask or an adapter has yet to go into them.
    if adapter and (not unmerged or (before.masks and weights is None)):
        if place.rank == 0:
            _leave(fine_tuned(), before, scratch)
        synchronise()
        weights = scratch
    model = load_model(spec.model, precision, place.device, weights)
    return (load_adapter(model, unmerged, before.masks) if unmerged else model), before


def _prune(
    load: Callable[[], Any], spec: StageSpec, place: Place, meter: Meter, scratch: Path, materials: Materials
) -> None:
    """Prune in high precision on rank 0, while the others wait, and leave the result for all."""
    pruner = PRUNERS[spec.pruning.kind]
    model = load().eval() if place.rank == 0 else None
    record = NOT_PRUNED
    with meter.window("calibrate" if pruner.calibrates else "prune"):
        if model is not None:
            calibration = NO_CALIBRATION
            if spec.pruning.calibration is not None:
                calibration = calibration_batches(
                    spec.pruning.calibration,
                    materials.examples,
                    materials.tokenizer,
                    model,
                    sequence_length=min(spec.sequence_length, context_length(model, materials.tokenizer)),
                    seed=spec.seed,
                )
            pruned = pruner.prune(model, spec.pruning, calibration.batches, spec.seed)
            record = PruningRecord(pruned.masks, pruned.removed, calibration.columns)
    if model is not None:
        _leave(model, record, scratch)
    synchronise()


def _leave(model: Any, record: PruningRecord, folder: Path) -> None:
    """Plain weights and the record of their pruning, checked, for all ranks to load."""
    record.verify(model)
    model.save_pretrained(folder)
    record.save(folder)


def plain(model: Any) -> Any:
    """The model under its adapter, whose layers have their plain names; the model itself where it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model

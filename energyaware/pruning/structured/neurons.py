"""Feed-forward neurons removed: narrower feed-forward layers, in every block as many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from energyaware.errors import AuditError
from energyaware.pruning.base import Batch, Pruned
from energyaware.pruning.structured.inventory import structures
from energyaware.pruning.structured.parts import configs, feed_forwards, projections
from energyaware.pruning.structured.resize import keep_inputs, keep_outputs
from energyaware.pruning.structured.scores import column_scores
from energyaware.pruning.structured.shares import Structured, highest, how_many, prunable_family, require

if TYPE_CHECKING:
    from energyaware.families import Family, FeedForward
    from energyaware.spec import Pruning


WIDEST_STEP: Final = 128
"""Kept neurons are a multiple of a power of two up to this, as tensor cores and quantisation blocks want widths."""
FINEST_SHARE: Final = 64
"""And up to this part of all neurons, so that rounding moves the share by less than a percentage point."""


class Neurons(Structured):
    """Removes the neurons that give least to the outputs of their layer: see `column_scores`."""

    def check(self, model: Any, pruning: Pruning) -> None:
        """The family's feed-forward layers are known, and the share leaves some neurons."""
        _asked(model, pruning)

    def prune(self, model: Any, pruning: Pruning, calibration: Sequence[Batch], seed: int) -> Pruned:
        """The share is of the neurons of each block, rounded to a width that matrix kernels are fast at."""
        family, shape, count, gone = _asked(model, pruning)
        require(calibration, pruning)
        parts = feed_forwards(model, family)
        readers = {part.name: (part.stack, getattr(part.module, shape.out)) for part in parts}
        scores = column_scores(model, readers, family, calibration)
        for part in parts:
            kept = highest(scores[part.name], count - gone)
            for layer in projections(part, shape.into).values():
                keep_outputs(layer, kept)
            keep_inputs(getattr(part.module, shape.out), kept)
        for config in configs(model, family):
            setattr(config, shape.width, count - gone)
        return Pruned({}, {"neurons": (gone, count)})


def _asked(model: Any, pruning: Pruning) -> tuple[Family, FeedForward, int, int]:
    """The family and its feed-forward layers, and of how many neurons how many go."""
    family = prunable_family(model, pruning)
    if family.feed_forward is None:
        raise AuditError(f"{pruning.label}: {family.name} models have no feed-forward layers that are known")
    count = structures(model.config)["neurons"]
    gone = count - _for_kernels(count - how_many(pruning, count, "neurons", range(1, count)), count)
    return family, family.feed_forward, count, gone


def _for_kernels(kept: int, count: int) -> int:
    """The nearest width to `kept` that is a multiple of the step, some but not all of `count`."""
    step = 1
    while 2 * step <= min(WIDEST_STEP, count // FINEST_SHARE):
        step *= 2
    rounded = round(kept / step) * step
    return rounded if 0 < rounded < count else kept

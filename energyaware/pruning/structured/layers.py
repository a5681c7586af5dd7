"""Whole blocks removed: a shallower model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from energyaware.errors import AuditError
from energyaware.pruning.base import Batch, Pruned
from energyaware.pruning.structured.inventory import structures
from energyaware.pruning.structured.parts import blocks, configs
from energyaware.pruning.structured.scores import block_influence
from energyaware.pruning.structured.shares import Structured, highest, how_many, prunable_family, require

if TYPE_CHECKING:
    from energyaware.families import Family
    from energyaware.spec import Pruning


class Layers(Structured):
    """Removes the blocks that change least what passes through them: see `block_influence`."""

    def check(self, model: Any, pruning: Pruning) -> None:
        """The family's blocks are known and can be fewer, and the share leaves some."""
        family = prunable_family(model, pruning)
        for field, reason in family.depth_matters.items():
            if getattr(model.config, field, False):
                raise AuditError(f"{pruning.label}: this {family.name} model has {field}: {reason}")
        _asked(model, pruning, family)

    def prune(self, model: Any, pruning: Pruning, calibration: Sequence[Batch], seed: int) -> Pruned:
        """The share is of the blocks of each stack. A first block that holds what others use stays."""
        self.check(model, pruning)
        require(calibration, pruning)
        family = prunable_family(model, pruning)
        counts, gone = _asked(model, pruning, family)
        parts = blocks(model, family)
        influence = block_influence(model, parts, family, calibration)
        for stack, (unit, count) in enumerate(counts.items()):
            scores = influence[[part.stack == stack for part in parts]]
            if family.first_block_stays:
                scores[0] = float("inf")
            _keep_blocks(model, family, stack, highest(scores, count - gone[unit]).tolist())
        return Pruned({}, {unit: (gone[unit], count) for unit, count in counts.items()})


def _asked(model: Any, pruning: Pruning, family: Family) -> tuple[dict[str, int], dict[str, int]]:
    """Blocks by stack, and how many of them go."""
    counts = {unit: structures(model.config)[unit] for unit in family.layer_units}
    return counts, {unit: how_many(pruning, count, unit, range(1, count)) for unit, count in counts.items()}


def _keep_blocks(model: Any, family: Family, stack: int, kept: list[int]) -> None:
    """Leave a stack those blocks, numbered anew: caches and configs know them by their places."""
    from torch import nn

    path, _, name = family.stacks[stack].rpartition(".")
    owner = model.get_submodule(path)
    remaining = nn.ModuleList(getattr(owner, name)[index] for index in kept)
    for place, block in enumerate(remaining):
        for module in block.modules():
            for attribute in ("layer_idx", "layer_id"):
                if isinstance(getattr(module, attribute, None), int):
                    setattr(module, attribute, place)
    setattr(owner, name, remaining)

    for config in configs(model, family):
        setattr(config, family.depths[stack], len(kept))
        for field in family.per_layer:
            setattr(config, field, [getattr(config, field)[index] for index in kept])
        for field, plain in family.per_layer_runs.items():
            setattr(config, field, [[list(getattr(config, plain)), 1]])
    # A stack with a config of its own counts its blocks there as if it were the whole model.
    owner.config.num_hidden_layers = len(kept)

"""No pruning, as a pruner: dense models take the same path as pruned ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energyaware.pruning.layerwise import LayerContext, Layerwise

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.pruning.patterns import Pattern


class KeepAll(Layerwise):
    """Keeps every weight."""

    def keep(self, weight: Tensor, pattern: Pattern, context: LayerContext) -> Tensor:
        """All True."""
        import torch

        return torch.ones_like(weight, dtype=torch.bool)

"""Random pruning: the baseline that every criterion has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energyaware.pruning.layerwise import LayerContext, Layerwise

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.pruning.patterns import Pattern


class Random(Layerwise):
    """Draws which weights stay; seed and layer name determine them, on every device alike."""

    def keep(self, weight: Tensor, pattern: Pattern, context: LayerContext) -> Tensor:
        """The highest of uniform draws."""
        import torch

        return pattern.keep_highest(torch.rand(weight.shape, generator=context.generator).to(weight.device))

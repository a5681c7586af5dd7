"""Magnitude pruning: the weights nearest to zero go (Han et al., 2015, arXiv 1506.02626)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energyaware.pruning.layerwise import LayerContext, Layerwise

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.pruning.patterns import Pattern


class Magnitude(Layerwise):
    """Scores a weight by its absolute value, over the whole layer."""

    def keep(self, weight: Tensor, pattern: Pattern, context: LayerContext) -> Tensor:
        """The largest absolute values."""
        return pattern.keep_highest(weight.abs())

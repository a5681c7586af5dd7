"""Wanda: weights count by what they are multiplied with (Sun et al., 2023, arXiv 2306.11695)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from energyaware.pruning.layerwise import LayerContext, Layerwise
from energyaware.pruning.statistics import InputNorms

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.pruning.patterns import Pattern


class Wanda(Layerwise):
    """Scores weight (i, j) by |W_ij| * ||x_j||_2, x_j being input j over all calibration tokens."""

    statistics: ClassVar = InputNorms

    def keep(self, weight: Tensor, pattern: Pattern, context: LayerContext) -> Tensor:
        """The highest scores of each output, or of each group of n:m."""
        return pattern.keep_highest_per_output(weight.abs() * context.inputs.norms.to(weight))

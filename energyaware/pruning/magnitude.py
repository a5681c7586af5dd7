"""Magnitude pruning: the weights nearest to zero go (Han et al., 2015, arXiv 1506.02626)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.pruning.patterns import Pattern


class Magnitude:
    """Scores a weight by its absolute value."""

    def keep(self, weight: Tensor, pattern: Pattern) -> Tensor:
        """The largest absolute values of each group."""
        return pattern.keep_highest(weight.abs())

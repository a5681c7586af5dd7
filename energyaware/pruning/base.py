"""What a pruner is: from a weight matrix to which of its weights stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.pruning.patterns import Pattern


class Pruner(Protocol):
    """One criterion of which weights matter."""

    def keep(self, weight: Tensor, pattern: Pattern) -> Tensor:
        """Which weights stay.

        Args:
            weight: (out_features, in_features), in full precision.
            pattern: which groups of weights compete, and how many of a group stay.

        Returns:
            bool tensor of the same shape, with exactly the pattern's count kept per group.
        """

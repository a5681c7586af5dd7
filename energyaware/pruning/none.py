"""No pruning, as a pruner: dense models take the same path as pruned ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.pruning.patterns import Pattern


class KeepAll:
    """Keeps every weight."""

    def keep(self, weight: Tensor, pattern: Pattern) -> Tensor:
        """All True."""
        import torch

        return torch.ones_like(weight, dtype=torch.bool)

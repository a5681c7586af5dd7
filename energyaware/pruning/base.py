"""What a pruner is: from a model and what it is calibrated on to which of its weights stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.spec import Pruning

Batch = Mapping[str, "Tensor"]
"""Keyword arguments of one forward pass over calibration examples: input_ids, attention_mask (0 at padding), and for
encoder-decoders decoder_input_ids and decoder_attention_mask; each (examples, length) int64, padded on the right."""

Masks = dict[str, "Tensor"]
"""By layer name: bool (out_features, in_features), True where a weight stays."""


@dataclass(frozen=True)
class Pruned:
    """What a pruning did to a model.

    Attributes:
        masks: of the pruned layers; empty where structures were removed.
        removed: by what was removed (key/value groups, neurons, layers): how many of how many; empty for masks.
    """

    masks: Masks
    removed: Mapping[str, tuple[int, int]]


class Pruner(Protocol):
    """One way to decide what a model can do without.

    Attributes:
        structured: whether it removes heads, neurons or layers, so that the model is physically smaller.
        calibrates: whether it looks at activations.
        reconstructs: whether weights that stay change, so that the masks alone do not say what the model became.
    """

    @property
    def structured(self) -> bool: ...
    @property
    def calibrates(self) -> bool: ...
    @property
    def reconstructs(self) -> bool: ...

    def check(self, model: Any, pruning: Pruning) -> None:
        """Whether the model can have this pruning: its names and shapes alone are looked at.

        Args:
            model: a transformers model, which may be without weights (on torch's meta device).
            pruning: as of `prune`.

        Raises:
            AuditError: a layer's shape cannot have the pattern, or the model lacks what is to be removed; the message
                names it.
        """

    def prune(self, model: Any, pruning: Pruning, calibration: Sequence[Batch], seed: int) -> Pruned:
        """Prune a model in full precision, in place.

        Args:
            model: a transformers model in float32, in evaluation mode.
            pruning: how much, in which pattern, and what is different in single layers.
            calibration: batches on the model's device; empty for pruners that do not calibrate.
            seed: of everything that is drawn.

        Raises:
            AuditError: as `check`, or calibration does not reach what it has to.
        """

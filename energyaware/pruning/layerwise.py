"""Pruners that decide layer by layer which weights stay.

A new criterion is a subclass with one method, `keep`; what is common to all is here: which layers, in which order,
with which pattern, weights that layers share, masks.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, ClassVar

from energyaware import layers as model_layers
from energyaware.errors import AuditError, few
from energyaware.pruning.base import Batch, Masks, Pruned
from energyaware.pruning.blockwise import Inputs, blocks_of, calibrate_blocks
from energyaware.pruning.overrides import patterns_by_layer

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from energyaware.pruning.patterns import Pattern
    from energyaware.pruning.statistics import InputStatistics
    from energyaware.spec import Pruning


@dataclass(frozen=True)
class LayerContext:
    """What a criterion may look at beside the weight.

    Attributes:
        name: of the layer.
        inputs: an instance of the pruner's `statistics` over the calibration tokens; None for pruners without.
        generator: on the CPU, seeded from the pruning's seed and the layer's name.
    """

    name: str
    inputs: Any
    generator: Generator


class Layerwise(ABC):
    """Base of the pruners that make masks.

    Attributes:
        structured: False: matrices keep their sizes.
        reconstructs: whether `keep` changes the weight.
        statistics: what `keep` wants to know of the layer's inputs, or None.
    """

    structured: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = False
    statistics: ClassVar[type[InputStatistics] | None] = None

    @property
    def calibrates(self) -> bool:
        """Whether it looks at activations."""
        return self.statistics is not None

    @abstractmethod
    def keep(self, weight: Tensor, pattern: Pattern, context: LayerContext) -> Tensor:
        """Which weights of a layer stay.

        Args:
            weight: (out_features, in_features) float32; only a pruner that reconstructs may write to it.
            pattern: how many stay, and which of them compete.
            context: the layer's name, inputs and generator.

        Returns:
            bool, of the same shape.
        """

    def check(self, model: Any, pruning: Pruning) -> None:
        """Look at names and shapes.

        Raises:
            AuditError: nothing is eligible, a layer's shape cannot have its pattern, an override matches no layer, a
                weight is shared in a way that cannot be pruned, or weights lie outside any linear layer; the message
                names it.
        """
        self._checked(model, pruning)

    def _checked(
        self, model: Any, pruning: Pruning
    ) -> tuple[dict[str, Any], dict[str, Pattern | None], dict[str, list[str]]]:
        """Layers, their patterns, and which of them share a weight; `check` says what is refused."""
        layers = model_layers.eligible_layers(model)
        if outside := list(model_layers.unseen_matrices(model)):
            raise AuditError(f"{pruning.label}: weights that are no linear layer's would stay dense: {few(outside)}")
        if not layers:
            raise AuditError(f"{pruning.label}: the model has no linear layer to prune")
        patterns = patterns_by_layer(layers, pruning)
        shares = _sharing(layers, patterns, pruning)
        for name, pattern in patterns.items():
            if pattern and (problem := pattern.refusal(_shape(layers[name]))):
                raise AuditError(f"{pruning.label}: layer {name}: {problem}")
        if self.statistics is not None:
            pruned = [name for name, pattern in patterns.items() if pattern]
            _refuse_sharing_between_blocks(model, pruned, shares, pruning)
        return layers, patterns, shares

    def prune(self, model: Any, pruning: Pruning, calibration: Sequence[Batch], seed: int) -> Pruned:
        """Prune every eligible layer in place; layers that an override leaves alone get a mask that is all True.

        Masks are on the CPU, and those of layers that share one weight are the same tensor.

        Raises:
            AuditError: as `check`, or calibration does not reach a layer; the message names it.
        """
        layers, patterns, shares = self._checked(model, pruning)
        wanted = {name: layers[name] for name, pattern in patterns.items() if pattern}
        masks: Masks = {}

        def prune_layer(name: str, seen: Any) -> None:
            mask = self._mask(layers[name], patterns[name], LayerContext(name, seen, _generator(seed, name)))
            masks.update(dict.fromkeys(shares[name], mask))

        def prune_block(inputs: Inputs) -> None:
            summed = {name: reduce(add, map(inputs.get, shares[name])) for name in inputs if name in shares}
            inputs.clear()
            while summed:  # what no layer needs any more is freed on the way
                name = next(iter(summed))
                prune_layer(name, summed.pop(name))

        if self.statistics is None:
            for name in filter(wanted.__contains__, shares):
                prune_layer(name, None)
        elif wanted:
            calibrate_blocks(model, wanted, calibration, self.statistics, prune_block)
        return Pruned({name: masks.get(name, _all_true(layer)) for name, layer in layers.items()}, {})

    def _mask(self, layer: Any, pattern: Any, context: LayerContext) -> Tensor:
        stored = model_layers.weight_matrix(layer)
        weight = stored.float()
        mask = self.keep(weight, pattern, context)
        if self.reconstructs:
            stored.copy_(weight)
        stored.masked_fill_(~mask, 0)
        return mask.cpu()


def _sharing(
    layers: Mapping[str, Any], patterns: Mapping[str, Pattern | None], pruning: Pruning
) -> dict[str, list[str]]:
    """By the first layer that holds a weight: all layers that do."""
    first: dict[int, str] = {}
    shares: dict[str, list[str]] = {}
    for name, layer in layers.items():
        shares.setdefault(first.setdefault(id(layer.weight), name), []).append(name)
    for names in shares.values():
        if len({(patterns[name], model_layers.is_transposed(layers[name])) for name in names}) > 1:
            raise AuditError(f"{pruning.label}: {', '.join(names)} share one weight and cannot be pruned differently")
    return shares


def _refuse_sharing_between_blocks(
    model: Any, layers: Sequence[str], shares: Mapping[str, list[str]], pruning: Pruning
) -> None:
    """A block is pruned before later ones see their inputs, so that one weight cannot wait for both."""
    block_of = {layer: block for block, inside in blocks_of(model, layers).items() for layer in inside}
    for names in shares.values():
        if len({block_of.get(name) for name in names}) > 1:
            raise AuditError(
                f"{pruning.label}: {', '.join(names)} share one weight in different blocks, which pruning by "
                "calibration cannot do justice to; magnitude and random can"
            )


def _generator(seed: int, name: str) -> Generator:
    import torch

    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _all_true(layer: Any) -> Tensor:
    import torch

    return torch.ones(_shape(layer), dtype=torch.bool)


def _shape(layer: Any) -> tuple[int, int]:
    rows, columns = model_layers.weight_matrix(layer).shape
    return rows, columns

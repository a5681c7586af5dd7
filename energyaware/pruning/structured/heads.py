"""Attention heads removed: narrower attention, in every block as many heads, or whole key/value groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from energyaware.errors import AuditError
from energyaware.pruning.base import Batch, Pruned
from energyaware.pruning.structured.inventory import structures
from energyaware.pruning.structured.parts import Part, attentions, configs
from energyaware.pruning.structured.resize import keep_columns, keep_inputs, keep_outputs, spread
from energyaware.pruning.structured.scores import column_scores
from energyaware.pruning.structured.shares import Structured, highest, how_many, prunable_family, require

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.families import Attention, Family
    from energyaware.spec import Pruning


class Heads(Structured):
    """Removes the heads that give least to the outputs of their attention: see `column_scores`.

    With grouped-query attention a key/value group goes with all its heads. Heads that share a table of position
    biases are one choice for the stack: each block's scores count as shares of its own sum, so that no block decides
    by being larger.
    """

    def check(self, model: Any, pruning: Pruning) -> None:
        """The family's attention is known, and what the share leaves is a model that can be loaded."""
        _asked(model, pruning)

    def prune(self, model: Any, pruning: Pruning, calibration: Sequence[Batch], seed: int) -> Pruned:
        """The share is of the heads, or key/value groups, of each attention."""
        family, shape, count, gone = _asked(model, pruning)
        require(calibration, pruning)
        heads, width = getattr(model.config, shape.heads) // count, getattr(model.config, shape.head_dim)

        parts = attentions(model, family)
        readers = {part.name: (part.stack, getattr(part.module, shape.out)) for part in parts}
        columns = column_scores(model, readers, family, calibration)
        scores = {name: score.view(count, heads * width).sum(1) for name, score in columns.items()}
        for part in parts:
            kept = highest(_of_its_choice(part, parts, scores, shape), count - gone)
            _shrink(part.module, shape, kept, heads, width)
        for each in configs(model, family):
            setattr(each, shape.heads, (count - gone) * heads)
            if shape.groups:
                setattr(each, shape.groups, count - gone)
        return Pruned({}, {shape.unit: (gone, count)})


def _asked(model: Any, pruning: Pruning) -> tuple[Family, Attention, int, int]:
    """The family and its attention, and of how many heads or groups how many go."""
    family = prunable_family(model, pruning)
    shape = family.attention
    if shape is None:
        raise AuditError(f"{pruning.label}: {family.name} models have no attention that is known")
    count = structures(model.config)[shape.unit]
    heads = getattr(model.config, shape.heads) // count
    possible = _possible(shape, count, heads, model.config.hidden_size)
    return family, shape, count, how_many(pruning, count, shape.unit, possible)


def _possible(shape: Attention, count: int, heads: int, hidden_size: int) -> list[int]:
    """How many groups of `heads` heads can go, so that the config of what is left can be loaded."""
    return [
        gone for gone in range(1, count) if not shape.heads_divide_width or hidden_size % ((count - gone) * heads) == 0
    ]


def _of_its_choice(part: Part, parts: list[Part], scores: dict[str, Tensor], shape: Attention) -> Tensor:
    """The scores by which this attention's heads are chosen: its own, or those of all that share its biases."""
    if part.kind not in shape.biased:
        return scores[part.name]
    together = [scores[other.name] for other in parts if (other.stack, other.kind) == (part.stack, part.kind)]
    shares: Tensor = sum(each / each.sum().clamp(min=1e-300) for each in together)  # type: ignore[assignment]
    return shares


def _shrink(module: Any, shape: Attention, kept: Tensor, heads: int, width: int) -> None:
    """Leave an attention those groups of `heads` heads of `width` columns."""
    queries, keys = spread(kept, heads * width), spread(kept, width)
    keep_outputs(getattr(module, shape.query), queries)
    keep_outputs(getattr(module, shape.key), keys)
    keep_outputs(getattr(module, shape.value), keys)
    keep_inputs(getattr(module, shape.out), queries)
    if shape.position_bias and hasattr(module, shape.position_bias):
        keep_columns(getattr(module, shape.position_bias), kept)
    if shape.heads_attribute:
        setattr(module, shape.heads_attribute, len(kept) * heads)
    if shape.width_attribute:
        setattr(module, shape.width_attribute, len(queries))

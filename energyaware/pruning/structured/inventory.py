"""What structures a model has, by its config and by its weights: proof that a structured pruning still holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from energyaware.errors import AuditError, few
from energyaware.families import family_of
from energyaware.layers import is_transposed
from energyaware.pruning.structured.parts import Part, attentions, feed_forwards, projections

if TYPE_CHECKING:
    from energyaware.families import Family


def structures(config: Any) -> dict[str, int]:
    """What can be counted of a model: heads (or key/value groups) and neurons of each block, layers of each stack.

    Args:
        config: of a transformers model of a known family.

    Returns:
        Counts by unit: "heads" or "key/value groups", "neurons", and "layers" or "encoder layers", "decoder layers".

    Raises:
        AuditError: the family is not known.
    """
    family = family_of(config)
    counts = {}
    if family.attention and family.attention.groups:
        counts[family.attention.unit] = getattr(config, family.attention.groups)
    else:
        counts["heads"] = config.num_attention_heads
    if family.feed_forward:
        counts["neurons"] = getattr(config, family.feed_forward.width) or 4 * config.hidden_size
    return counts | {
        unit: getattr(config, field) for unit, field in zip(family.layer_units, family.depths, strict=True)
    }


def verify_structures(model: Any, removed: Mapping[str, tuple[int, int]]) -> None:
    """Check that a model lacks what a pruning removed, in its config and in the shapes of its weights.

    Args:
        model: as pruned, or reloaded in any precision, with or without adapters, also partitioned by ZeRO 3.
        removed: `Pruned.removed`: by unit, how many of how many.

    Raises:
        AuditError: the config has another number, or layers have another shape; the message names them.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    counts = structures(model.config)
    for unit, (gone, of) in removed.items():
        if counts.get(unit) != of - gone:
            raise AuditError(
                f"{gone} of {of} {unit} were removed, which leaves {of - gone}: "
                f"the model's config says {counts.get(unit, 'nothing of them')}"
            )
    family = family_of(model.config)
    for unit, path in zip(family.layer_units, family.stacks, strict=True):
        if len(model.get_submodule(path)) != counts[unit]:
            raise AuditError(f"{path} has {len(model.get_submodule(path))} blocks, the config says {counts[unit]}")
    wrong = [
        f"{name} {shape[0]} x {shape[1]} (out_features or in_features should be {expected})"
        for name, shape, axis, expected in _expected(model, family)
        if shape[axis] != expected
    ]
    if wrong:
        raise AuditError(f"layers are not as wide as the config says: {few(wrong)}")


def _expected(model: Any, family: Family) -> Iterator[tuple[str, tuple[int, int], int, int]]:
    """Layers by name with their shape, the axis that structures lie on, and its length by the config."""
    config = model.config

    def each(part: Part, names: tuple[str, ...], axis: int, expected: int) -> Iterator[Any]:
        for name, layer in projections(part, names).items():
            yield name, _shape(layer), axis, expected

    if feed_forward := family.feed_forward:
        neurons = structures(config)["neurons"]
        for part in feed_forwards(model, family):
            yield from each(part, feed_forward.into, 0, neurons)
            yield from each(part, (feed_forward.out,), 1, neurons)
    if attention := family.attention:
        width = getattr(config, attention.head_dim)
        queries = width * getattr(config, attention.heads)
        keys = width * getattr(config, attention.groups or attention.heads)
        for part in attentions(model, family):
            yield from each(part, (attention.query,), 0, queries)
            yield from each(part, (attention.key, attention.value), 0, keys)
            yield from each(part, (attention.out,), 1, queries)
            if attention.position_bias and hasattr(part.module, attention.position_bias):
                table = getattr(part.module, attention.position_bias)
                yield f"{part.name}.{attention.position_bias}", _shape(table), 1, getattr(config, attention.heads)


def _shape(layer: Any) -> tuple[int, int]:
    """(out_features, in_features) of what is stored, not of what the config made of the module."""
    weight = layer.weight
    if getattr(weight, "quant_state", None) is not None:
        rows, columns = weight.quant_state.shape  # 4-bit weights are packed
    else:
        rows, columns = getattr(weight, "ds_shape", weight.shape)  # ZeRO 3 leaves an empty tensor with the true shape
    return (columns, rows) if is_transposed(layer) else (rows, columns)

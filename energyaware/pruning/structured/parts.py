"""The parts of a model that structured pruning is about, found by what its family says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from energyaware.families import Family
from energyaware.layers import without_adapter


@dataclass(frozen=True)
class Part:
    """A block, or a module of a block. `stack` is the number of its stack, 0 for the encoder or the only one."""

    name: str
    stack: int
    module: Any

    @property
    def kind(self) -> str:
        """The last part of its name, which says what it is."""
        return self.name.rpartition(".")[2]


def blocks(model: Any, family: Family) -> list[Part]:
    """All blocks of all stacks, in order."""
    return [
        Part(f"{path}.{index}", stack, block)
        for stack, path in enumerate(family.stacks)
        for index, block in enumerate(model.get_submodule(path))
    ]


def feed_forwards(model: Any, family: Family) -> list[Part]:
    """The feed-forward modules of all blocks, in order."""
    return _named(model, family, (family.feed_forward.module,)) if family.feed_forward else []


def attentions(model: Any, family: Family) -> list[Part]:
    """The attention modules of all blocks, in order; none where the family's heads cannot go."""
    return _named(model, family, family.attention.modules) if family.attention else []


def projections(part: Part, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the named linear layers that the part has, by their full names, without adapters."""
    return {
        f"{part.name}.{name}": without_adapter(getattr(part.module, name))
        for name in names
        if hasattr(part.module, name)
    }


def configs(model: Any, family: Family) -> list[Any]:
    """The model's config and the copies of it that T5's stacks keep: what changes must change in all."""
    owners = [model.get_submodule(path.rpartition(".")[0]) for path in family.stacks]
    return list({id(owner.config): owner.config for owner in (model, *owners)}.values())


def _named(model: Any, family: Family, kinds: tuple[str, ...]) -> list[Part]:
    def inside(block: Part) -> Iterator[Part]:
        for name, module in block.module.named_modules():
            part = Part(f"{block.name}.{name}", block.stack, module)
            if part.kind in kinds:
                yield part

    return [part for block in blocks(model, family) for part in inside(block)]

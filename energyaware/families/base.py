"""What a model family is: how its parts are called, so that pruning, quantisation and serving see all alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Attention:
    """Where a family keeps its attention heads. Named only where transformers can load a model that has lost some.

    Every head is `head_dim` consecutive rows of the query projection and as many columns of the output projection,
    heads in order; the heads of one key/value group follow each other.

    Attributes:
        modules: names of attention modules inside a block.
        query, key, value, out: their projections.
        heads: config field of the number of query heads.
        head_dim: config field of a head's width, which does not follow from the other two.
        groups: config field of the number of key/value groups, "" where every head has its own keys and values.
        heads_divide_width: whether the config is refused unless the number of heads divides the hidden size.
        position_bias: embedding (buckets, heads) in the first block that all of a stack's `biased` modules share.
        biased: the modules whose heads that embedding is about: they lose the same heads in every block.
        heads_attribute, width_attribute: where a module keeps its number of heads, and heads * head_dim.
    """

    modules: tuple[str, ...]
    query: str
    key: str
    value: str
    out: str
    heads: str
    head_dim: str
    groups: str = ""
    heads_divide_width: bool = False
    position_bias: str = ""
    biased: frozenset[str] = frozenset()
    heads_attribute: str = ""
    width_attribute: str = ""

    @property
    def unit(self) -> str:
        """What can go without leaving something behind that nothing uses."""
        return "key/value groups" if self.groups else "heads"


@dataclass(frozen=True)
class FeedForward:
    """Where a family keeps its feed-forward neurons.

    Attributes:
        module: name of the feed-forward module inside a block.
        into: projections that make the neurons, with the gate; names that a variant of the family lacks are passed by.
        out: the projection that reads them.
        width: config field of their number; unset means four times the hidden size.
    """

    module: str
    into: tuple[str, ...]
    out: str
    width: str


@dataclass(frozen=True)
class Family:
    """One architecture of transformers.

    Attributes:
        name: transformers' model_type.
        encoder_decoder: whether an encoder reads the prompt and a decoder answers.
        stacks: paths of the lists of blocks: ("model.layers",); the encoder's first.
        depths: config fields of their numbers of blocks.
        feed_forward: its neurons.
        attention: its heads, None where they cannot be removed: `cannot` says why.
        first_block_stays: whether the first block of a stack holds what the others use too.
        per_layer: config fields with one entry for each block, cut with the blocks.
        per_layer_runs: the same written as [[kinds, repeats], ...], by the plain list that they spell out.
        depth_matters: config fields which, where set, make a block compute by its place in the stack, and why then no
            block can go.
        plain_linear: names of nn.Linear subclasses of the family that compute exactly what nn.Linear does.
        cannot: by name of a pruner or precision: why this family cannot have it, in one line.
    """

    name: str
    encoder_decoder: bool = False
    stacks: tuple[str, ...] = ()
    depths: tuple[str, ...] = ("num_hidden_layers",)
    feed_forward: FeedForward | None = None
    attention: Attention | None = None
    first_block_stays: bool = False
    per_layer: tuple[str, ...] = ()
    per_layer_runs: Mapping[str, str] = field(default_factory=dict)
    depth_matters: Mapping[str, str] = field(default_factory=dict)
    plain_linear: frozenset[str] = frozenset()
    cannot: Mapping[str, str] = field(default_factory=dict)

    @property
    def layer_units(self) -> tuple[str, ...]:
        """What the blocks of each stack are called where they are counted."""
        return ("encoder layers", "decoder layers") if self.encoder_decoder else ("layers",)

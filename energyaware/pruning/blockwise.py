"""Calibration block by block: a block's layers are pruned for the inputs that pruned earlier blocks give them.

As in SparseGPT and Wanda: every block is computed twice, once dense to see its layers' inputs and once pruned for the
inputs of the next one. Beyond the model there are, at any time, the statistics of one block, what pruning one layer
takes, and of every batch what its forward pass holds between two blocks: hidden states and attention mask, and of an
encoder-decoder the encoder's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from energyaware.errors import AuditError
from energyaware.layers import weight_matrix
from energyaware.pruning.lockstep import Call, in_lockstep

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.pruning.base import Batch
    from energyaware.pruning.statistics import InputStatistics

Inputs = dict[str, "InputStatistics"]
"""Statistics by layer name; layers that always see the same tensor (query, key and value) have one in common."""


def calibrate_blocks(
    model: Any,
    layers: Mapping[str, Any],
    batches: Sequence[Batch],
    statistics: Callable[[int, Any], InputStatistics],
    prune: Callable[[Inputs], None],
) -> None:
    """Calls `prune` once per block, in the order of computation, with statistics over tokens that are not padding.

    Args:
        model: a transformers model in evaluation mode.
        layers: the linear layers to be pruned, by name.
        batches: calibration batches on the model's device; of an encoder-decoder, prompts and answers are padded to
            different lengths.
        statistics: makes empty statistics from in_features and device.
        prune: prunes the layers it is given statistics of.

    Raises:
        AuditError: no batch; a layer that no calibration token reaches, whose inputs are not finite, or of whose
            inputs it is not known which are padding; it is named.
    """
    if not batches:
        raise AuditError("there are no calibration examples")
    tokens = [_tokens(batch) for batch in batches]
    waiting = blocks_of(model, layers)
    members = {name: {layer: layers[layer] for layer in inside} for name, inside in waiting.items()}

    def arrived(block: str, calls: Sequence[Call]) -> bool:
        if waiting.pop(block, None):
            prune(_inputs(members[block], calls, tokens, statistics))
        return bool(waiting)  # what comes after the last block need not be computed

    in_lockstep(model, {name: model.get_submodule(name) for name in waiting}, batches, arrived)
    if waiting:
        raise AuditError(f"no calibration token reaches {', '.join(name for m in waiting.values() for name in m)}")


def blocks_of(model: Any, layers: Iterable[str]) -> dict[str, list[str]]:
    """The blocks that hold the layers: members of the outermost module lists; a layer outside of them is its own.

    Returns:
        Names of the blocks' layers by name of the block.
    """
    from torch import nn

    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    blocks: dict[str, list[str]] = {}
    for layer in layers:
        outermost = next((name for name in lists if layer.startswith(f"{name}.")), None)
        member = layer if outermost is None else f"{outermost}.{layer[len(outermost) + 1 :].partition('.')[0]}"
        blocks.setdefault(member, []).append(layer)
    return blocks


def _inputs(
    layers: Mapping[str, Any],
    calls: Sequence[Call],
    tokens: Sequence[list[Tensor]],
    statistics: Callable[[int, Any], InputStatistics],
) -> Inputs:
    watch = _Watch(layers, statistics)
    with watch.open():
        for call, real in zip(calls, tokens, strict=True):
            watch.real = real
            if call.module in layers:  # outside of any block
                watch.see(call.module, layers[call.module], call.arguments, call.named)
            else:
                call.compute()
            watch.forget()
    inputs = {name: watch.inputs[name] for name in layers if name in watch.inputs}
    if unseen := [name for name in layers if name not in inputs or not inputs[name].tokens]:
        raise AuditError(f"no calibration token reaches {', '.join(unseen)}")
    if wrong := [name for name, seen in inputs.items() if not seen.finite]:
        raise AuditError(f"inputs of {', '.join(wrong)} on the calibration examples are not finite")
    return inputs


class _Watch:
    """Adds up what the layers of a block see."""

    def __init__(self, layers: Mapping[str, Any], statistics: Callable[[int, Any], InputStatistics]) -> None:
        self.inputs: Inputs = {}
        self.real: list[Tensor] = []
        self._layers, self._statistics = layers, statistics
        self._last: tuple[str, Tensor] | None = None
        self._follows: dict[str, str | None] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        hooks = [
            layer.register_forward_pre_hook(self._hook(name), with_kwargs=True) for name, layer in self._layers.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def forget(self) -> None:
        """The next input is of another batch."""
        self._last = None

    def _hook(self, name: str) -> Callable[..., None]:
        return lambda layer, arguments, named: self.see(name, layer, arguments, named)

    def see(self, name: str, layer: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Add the input of a call of the layer."""
        inputs = next(iter((*arguments, *named.values())))
        # A tensor that goes to several layers in a row is counted once, and they share the statistics.
        first = self._last[0] if self._last and self._last[1] is inputs else None
        self._last = (first or name, inputs)
        if self._follows.setdefault(name, first) != first:
            raise AuditError(f"{name} shares its input with {first or self._follows[name]} in some batches only")
        if first:
            self.inputs[name] = self.inputs[first]
            return
        if name not in self.inputs:
            self.inputs[name] = self._statistics(weight_matrix(layer).shape[1], inputs.device)
        self.inputs[name].add(_of_tokens(inputs, self.real, name))


def _tokens(batch: Batch) -> list[Tensor]:
    """Which positions are no padding, of what is read and, of an encoder-decoder, of what is answered: bool each."""
    masks = [batch[name].bool() for name in ("attention_mask", "decoder_attention_mask") if name in batch]
    if len({mask.shape for mask in masks}) < len(masks):
        raise ValueError("encoder and decoder inputs have one length: their tokens cannot be told apart")
    return masks


def _of_tokens(inputs: Tensor, real: Sequence[Tensor], name: str) -> Tensor:
    """Of a layer's inputs those that are no padding: (tokens, in_features)."""
    for mask in real:
        if inputs.shape[:-1] in (mask.shape, (mask.numel(),)):
            flat = inputs.reshape(-1, inputs.shape[-1])
            return flat if bool(mask.all()) else flat[mask.flatten()]
    raise AuditError(
        f"{name} sees inputs of shape {tuple(inputs.shape)}, of which it is not known which belong to tokens; "
        "such layers (routed experts) can be pruned without calibration only"
    )

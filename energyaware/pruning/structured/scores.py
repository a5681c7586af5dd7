"""What calibration says of structures: one forward pass over the examples, hooks where they are, padding left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.families import Family
    from energyaware.pruning.base import Batch
    from energyaware.pruning.structured.parts import Part


def column_scores(
    model: Any, layers: Mapping[str, tuple[int, Any]], family: Family, batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """What each input of a linear layer gives to the layer's outputs.

    The structured form of Wanda's score, sum over outputs i of |W[i, j]| * ||x_j||_2: Sun et al., 2023, arXiv
    2306.11695, summed over a structure as in An et al., 2023 (FLAP), arXiv 2312.11983.

    Args:
        model: in evaluation mode.
        layers: by name: number of the stack that the layer stands in, and the layer.
        family: the model's.
        batches: calibration examples on the model's device.

    Returns:
        By the same names: float64 (in_features).
    """
    import torch

    from energyaware.layers import weight_matrix

    squares: dict[str, Tensor] = {}

    def watch(name: str, stack: int, layer: Any, seen: Callable[[int], Tensor]) -> Any:
        def hook(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            tokens = inputs[0][seen(stack)].float()
            squares[name] = squares.get(name, 0) + tokens.square().sum(0, dtype=torch.float64)

        return layer.register_forward_pre_hook(hook)

    _run(
        model,
        family,
        batches,
        lambda seen: [watch(name, stack, layer, seen) for name, (stack, layer) in layers.items()],
    )
    return {
        name: squares[name].sqrt() * weight_matrix(layer).abs().sum(0, dtype=torch.float64)
        for name, (_, layer) in layers.items()
    }


def block_influence(model: Any, blocks: Sequence[Part], family: Family, batches: Sequence[Batch]) -> Tensor:
    """How much each block turns what passes through it: the mean over tokens of 1 - cos(input, output).

    Men et al., 2024 (ShortGPT), arXiv 2403.03853.

    Returns:
        float64 (blocks), on the CPU.
    """
    import torch

    turned, tokens = [0.0] * len(blocks), [0] * len(blocks)

    def watch(index: int, block: Part, seen: Callable[[int], Tensor]) -> Any:
        def hook(_module: Any, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
            keep = seen(block.stack)
            before = (inputs[0] if inputs else named["hidden_states"])[keep].double()
            after = (output[0] if isinstance(output, tuple) else output)[keep].double()
            turned[index] += float((1 - torch.cosine_similarity(before, after, dim=-1)).sum())
            tokens[index] += before.shape[0]

        return block.module.register_forward_hook(hook, with_kwargs=True)

    _run(model, family, batches, lambda seen: [watch(index, block, seen) for index, block in enumerate(blocks)])
    return torch.tensor([t / n for t, n in zip(turned, tokens, strict=True)], dtype=torch.float64)


def _run(
    model: Any,
    family: Family,
    batches: Sequence[Batch],
    hooks: Callable[[Callable[[int], Tensor]], Sequence[Any]],
) -> None:
    """Pass the batches through the model's body, the output head spared, with hooks that can ask which tokens count.

    What the hooks ask with is the number of a stack: the decoder of an encoder-decoder, also where it attends to the
    encoder, works on the decoder's tokens.
    """
    import torch

    batch: Batch = {}

    def seen(stack: int) -> Tensor:
        prefix = "decoder_" if family.encoder_decoder and stack == 1 else ""
        if f"{prefix}attention_mask" in batch:
            return batch[f"{prefix}attention_mask"].bool()
        return torch.ones_like(batch[f"{prefix}input_ids"], dtype=torch.bool)

    with ExitStack() as removed_after, torch.no_grad():
        for hook in hooks(seen):
            removed_after.callback(hook.remove)
        for batch in batches:
            model.base_model(**batch, use_cache=False)

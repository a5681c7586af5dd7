"""The change of an adapted layer's output under a mask, computed without keeping the change of its weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def weight_change(down: Tensor, up: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The change of a layer's weight: mask * scale * (up @ down), (out_features, in_features)."""
    return (up @ down).mul_(mask).mul_(scale)


def masked_change(x: Tensor, down: Tensor, up: Tensor, mask: Tensor, scale: float) -> Tensor:
    """What x makes of the change of weight, for training: x @ weight_change(...).T, (..., out_features).

    Args:
        x: (..., in_features).
        down: (rank, in_features), a LoRA's A.
        up: (out_features, rank), its B.
        mask: bool (out_features, in_features).
        scale: of the adapter.
    """
    changed: Tensor = _MaskedChange.apply(x, down, up, mask, scale)  # type: ignore[no-untyped-call]
    return changed


class _MaskedChange(torch.autograd.Function):
    """Makes the change of weight again on the way back: kept, it would take as much memory as all weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, down, up, mask)
        ctx.scale = scale
        return linear(x, weight_change(down, up, mask, scale))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        (gradient,) = gradients
        x, down, up, mask = ctx.saved_tensors
        of_x = gradient @ weight_change(down, up, mask, ctx.scale) if ctx.needs_input_grad[0] else None
        of_change = gradient.flatten(0, -2).T @ x.flatten(0, -2)
        of_change.mul_(mask).mul_(ctx.scale)
        return of_x, up.T @ of_change, of_change @ down.T, None, None

"""Smaller layers in place of larger ones: what stays keeps its values, order, dtype and device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energyaware.layers import is_transposed

if TYPE_CHECKING:
    from torch import Tensor


def keep_outputs(layer: Any, kept: Tensor) -> None:
    """Let a linear layer compute only those of its outputs, bias with them. kept: int64 indices."""
    _select(layer, "weight", 1 if is_transposed(layer) else 0, kept)
    if layer.bias is not None:
        _select(layer, "bias", 0, kept)
    setattr(layer, "nf" if is_transposed(layer) else "out_features", len(kept))


def keep_inputs(layer: Any, kept: Tensor) -> None:
    """Let a linear layer read only those of its inputs. kept: int64 indices."""
    _select(layer, "weight", 0 if is_transposed(layer) else 1, kept)
    setattr(layer, "nx" if is_transposed(layer) else "in_features", len(kept))


def keep_columns(embedding: Any, kept: Tensor) -> None:
    """Let an embedding give only those of its features. kept: int64 indices."""
    _select(embedding, "weight", 1, kept)
    embedding.embedding_dim = len(kept)


def spread(kept: Tensor, width: int) -> Tensor:
    """Indices of all rows of the structures that stay, each `width` consecutive ones."""
    import torch

    rows: Tensor = kept[:, None] * width + torch.arange(width, device=kept.device)
    return rows.flatten()


def _select(module: Any, name: str, dim: int, kept: Tensor) -> None:
    from torch import nn

    whole = getattr(module, name)
    part = whole.data.index_select(dim, kept.to(whole.device))
    setattr(module, name, nn.Parameter(part, requires_grad=whole.requires_grad))

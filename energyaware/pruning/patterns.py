"""Sparsity patterns: which weights compete with each other, and how many of them stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from energyaware.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


class Pattern(Protocol):
    """Turns scores into a mask with an exact number of weights kept."""

    @property
    def sparsity(self) -> float:
        """Share of weights removed, in [0, 1)."""

    def refusal(self, shape: tuple[int, int]) -> str | None:
        """Why a matrix (out_features, in_features) cannot have this pattern, or None."""

    def keep_highest(self, score: Tensor) -> Tensor:
        """Mask of the highest scores, bool, same shape (out_features, in_features)."""


@dataclass(frozen=True)
class Unstructured:
    """Any weight of the matrix may go."""

    sparsity: float

    def refusal(self, shape: tuple[int, int]) -> str | None:
        """Every matrix can."""
        return None

    def keep_highest(self, score: Tensor) -> Tensor:
        """Keep exactly round((1 - sparsity) * size): a threshold would keep too many where bf16 scores tie."""
        import torch

        kept = round((1 - self.sparsity) * score.numel())
        mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
        mask[score.flatten().topk(kept).indices] = True
        return mask.view_as(score)


@dataclass(frozen=True)
class NofM:
    """n of every m consecutive weights along the input dimension stay, as sparse tensor cores want them (2:4)."""

    n: int
    m: int

    @property
    def sparsity(self) -> float:
        """1 - n/m."""
        return 1 - self.n / self.m

    def refusal(self, shape: tuple[int, int]) -> str | None:
        """The input dimension must be a whole number of groups."""
        return f"in_features {shape[1]} is not a multiple of {self.m}" if shape[1] % self.m else None

    def keep_highest(self, score: Tensor) -> Tensor:
        """Keep exactly n in each group of m."""
        import torch

        groups = score.reshape(score.shape[0], -1, self.m)
        mask = torch.zeros_like(groups, dtype=torch.bool)
        return mask.scatter_(-1, groups.topk(self.n, dim=-1).indices, value=True).view_as(score)


def make_pattern(text: str, sparsity: float) -> Pattern:
    """The pattern of that name: "unstructured", or "n:m".

    Raises:
        InputError: neither of the two.
    """
    if text == "unstructured":
        return Unstructured(sparsity)
    n, _, m = text.partition(":")
    if not (n.isdecimal() and m.isdecimal() and 0 < int(n) < int(m)):
        raise InputError("pruning", "pattern", f"{text!r} is not unstructured or n:m with 0 < n < m, such as 2:4")
    return NofM(int(n), int(m))

"""Sparsity patterns: which weights compete with each other, and how many of them stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from energyaware.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


class Pattern(Protocol):
    """Turns scores into a mask with an exact number of weights kept.

    Every method that keeps does so exactly: by topk, because a threshold would keep too many where scores tie, as they
    do in bf16.
    """

    @property
    def sparsity(self) -> float:
        """Share of weights removed, in [0, 1)."""

    @property
    def group(self) -> int | None:
        """Consecutive inputs of an output that compete; None where the whole matrix does."""

    def refusal(self, shape: tuple[int, int]) -> str | None:
        """Why a matrix (out_features, in_features) cannot have this pattern, or None."""

    def keep_highest(self, score: Tensor) -> Tensor:
        """Mask of the highest scores, bool, same shape (out_features, in_features)."""

    def keep_highest_per_output(self, score: Tensor) -> Tensor:
        """As `keep_highest`, as many in all, but a weight competes with those of its own output only."""

    def keep_highest_of_columns(self, score: Tensor, start: int) -> Tensor:
        """The mask of a slice of columns that begins at column `start`.

        Slices keep together what the whole matrix does. Of n:m they are a whole number of groups.
        """


@dataclass(frozen=True)
class Unstructured:
    """Any weight of the matrix may go: round((1 - sparsity) * size) stay."""

    sparsity: float

    @property
    def group(self) -> int | None:
        """No groups."""
        return None

    def refusal(self, shape: tuple[int, int]) -> str | None:
        """Every matrix can."""
        return None

    def keep_highest(self, score: Tensor) -> Tensor:
        """Of all weights."""
        return self.keep_highest_of_columns(score, 0)

    def keep_highest_per_output(self, score: Tensor) -> Tensor:
        """Of each row; rows differ by one where the share of a row is no whole number, so that the sum is exact."""
        import torch

        rows, columns = score.shape
        kept = torch.tensor([self._kept((row + 1) * columns) - self._kept(row * columns) for row in range(rows)])
        least = int(kept.min())
        mask = torch.zeros_like(score, dtype=torch.bool)
        mask.scatter_(1, score.topk(least, dim=1, sorted=False).indices, value=True)
        more = (kept > least).nonzero().squeeze(1).to(score.device)
        if len(more):
            mask[more, score.masked_fill(mask, -torch.inf)[more].argmax(1)] = True
        return mask

    def keep_highest_of_columns(self, score: Tensor, start: int) -> Tensor:
        """Of all weights of the slice."""
        import torch

        rows, columns = score.shape
        kept = self._kept(rows * (start + columns)) - self._kept(rows * start)
        mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
        mask[score.flatten().topk(kept, sorted=False).indices] = True
        return mask.view(score.shape)

    def _kept(self, count: int) -> int:
        return round((1 - self.sparsity) * count)


@dataclass(frozen=True)
class NofM:
    """n of every m consecutive weights along the input dimension stay, as sparse tensor cores want them (2:4)."""

    n: int
    m: int

    @property
    def sparsity(self) -> float:
        """1 - n/m."""
        return 1 - self.n / self.m

    @property
    def group(self) -> int | None:
        """The m of n:m."""
        return self.m

    def refusal(self, shape: tuple[int, int]) -> str | None:
        """The input dimension must be a whole number of groups."""
        return f"in_features {shape[1]} is not a multiple of {self.m}" if shape[1] % self.m else None

    def keep_highest(self, score: Tensor) -> Tensor:
        """Of each group."""
        import torch

        groups = score.reshape(score.shape[0], -1, self.m)
        mask = torch.zeros_like(groups, dtype=torch.bool)
        return mask.scatter_(-1, groups.topk(self.n, dim=-1).indices, value=True).view(score.shape)

    def keep_highest_per_output(self, score: Tensor) -> Tensor:
        """Of each group, which is of one output."""
        return self.keep_highest(score)

    def keep_highest_of_columns(self, score: Tensor, start: int) -> Tensor:
        """Of each group of the slice."""
        return self.keep_highest(score)


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

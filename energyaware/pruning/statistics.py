"""What is remembered of a layer's inputs while calibration examples pass through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, Self

if TYPE_CHECKING:
    from torch import Tensor, device


ROWS: Final = 512
"""Rows of a Gram matrix that are added to at once."""


class InputStatistics(Protocol):
    """A sum over tokens, so that batches, and layers that share a weight, add up.

    Attributes:
        tokens: how many were added.
        finite: whether every input was.
    """

    tokens: int

    def __init__(self, in_features: int, device: device) -> None: ...

    def add(self, inputs: Tensor) -> None:
        """Add tokens: (tokens, in_features), of any floating type."""

    def __add__(self, other: Self) -> Self:
        """Of both sets of tokens together."""

    @property
    def finite(self) -> bool: ...


class InputNorms:
    """Sums of squares, (in_features,) float64."""

    def __init__(self, in_features: int, device: device) -> None:
        import torch

        self.tokens, self._squares = 0, torch.zeros(in_features, dtype=torch.float64, device=device)

    def add(self, inputs: Tensor) -> None:
        """Squares are summed in float32 within a batch, in float64 over batches."""
        self.tokens += len(inputs)
        self._squares += inputs.float().square().sum(0)

    def __add__(self, other: Self) -> Self:
        total = type(self)(len(self._squares), self._squares.device)
        total.tokens, total._squares = self.tokens + other.tokens, self._squares + other._squares
        return total

    @property
    def norms(self) -> Tensor:
        """||x_j||_2 of each input j over all tokens: (in_features,) float64."""
        return self._squares.sqrt()

    @property
    def finite(self) -> bool:
        """Whether every input was."""
        return bool(self._squares.isfinite().all())


class InputGram:
    """X^T X of the inputs X (tokens, in_features): (in_features, in_features) float64."""

    def __init__(self, in_features: int, device: device) -> None:
        import torch

        self.tokens, self.gram = 0, torch.zeros(in_features, in_features, dtype=torch.float64, device=device)

    def add(self, inputs: Tensor) -> None:
        """Products are summed in float32 within a batch, in float64 over batches.

        In float32 over batches a few of a thousand choices of SparseGPT came out otherwise than in exact arithmetic.
        """
        self.tokens += len(inputs)
        inputs = inputs.float()
        for start in range(0, len(self.gram), ROWS):  # a product as large as the sum would double what it takes
            self.gram[start : start + ROWS] += inputs[:, start : start + ROWS].T @ inputs

    def __add__(self, other: Self) -> Self:
        total = type(self)(0, self.gram.device)
        total.tokens, total.gram = self.tokens + other.tokens, self.gram + other.gram
        return total

    @property
    def finite(self) -> bool:
        """Whether every input was."""
        return bool(self.gram.diagonal().isfinite().all())

"""A linear layer in 8-bit floating point. Loads torch: imported when a model is converted, not before."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

E4M3_MAX: Final = torch.finfo(torch.float8_e4m3fn).max
SMALLEST: Final = 1e-12
"""Least magnitude that a scale is made for: a row of zeros stays zeros."""
BLOCK: Final = 16
"""Tensor cores take matrices whose sides are multiples of it: others are padded with zeros."""


class Float8Linear(nn.Linear):
    """y = x W^T + b, W and x in e4m3, products summed up in float32, y in bf16.

    Attributes:
        weight: (out_features, in_features), padded to multiples of 16; int8 holding the bits of e4m3. As int8 it is
            not changed by `.to(dtype)`, and models that cast their activations to a weight's dtype (T5) leave it be.
        scale: (1, out_features) padded likewise, float32: what a row of e4m3 values is multiplied by.
        bias: (out_features,) bf16, or None.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantise a weight (out_features, in_features) and its bias, of any floating dtype."""
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        padded = pad(weight.detach().float(), (0, -self.in_features % BLOCK, 0, -self.out_features % BLOCK))
        values, scale = _quantise(padded)
        self.weight = nn.Parameter(values.view(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale.T.contiguous())
        kept = None if bias is None else nn.Parameter(bias.detach().to(torch.bfloat16), requires_grad=False)
        self.register_parameter("bias", kept)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name for it
        """(..., in_features) to (..., out_features), in the input's dtype."""
        rows = input.reshape(-1, self.in_features).float()
        values, scale = _quantise(pad(rows, (0, -self.in_features % BLOCK)))
        weight = self.weight.view(torch.float8_e4m3fn).T
        bias = None if self.bias is None else pad(self.bias, (0, -self.out_features % BLOCK))
        output: Tensor = torch._scaled_mm(
            values, weight, scale_a=scale, scale_b=self.scale, bias=bias, out_dtype=torch.bfloat16
        )
        return output[:, : self.out_features].reshape(*input.shape[:-1], self.out_features).to(input.dtype)

    def dequantised(self) -> Tensor:
        """The weight as it computes: (out_features, in_features) float32."""
        weight = self.weight.view(torch.float8_e4m3fn).float() * self.scale.T
        return weight[: self.out_features, : self.in_features]


def _quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Values (rows, columns) in e4m3, and scales (rows, 1) in float32, whose product is nearest to the rows."""
    scale = rows.abs().amax(-1, keepdim=True).clamp(min=SMALLEST) / E4M3_MAX
    return (rows / scale).to(torch.float8_e4m3fn), scale

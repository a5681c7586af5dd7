"""What transformers and bitsandbytes 0.50.2 leave to do. Loads both: imported when a model is quantised, not before."""

from __future__ import annotations

from typing import Any, Final

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from energyaware.layers import dequantised_4bit, plain_layers, weight_matrix

BLOCK: Final = 64
"""Weights that share a scale in 4-bit formats."""


def quantise_rest(model: Any, config: Any) -> None:
    """Quantise the linear layers that transformers does not: Falcon's own class, and T5's `wo`.

    transformers replaces exact nn.Linear and Conv1D alone, and leaves out what a model lists to be kept in float32.

    Args:
        model: as loaded with `config`.
        config: transformers' BitsAndBytesConfig.
    """
    for name, layer in plain_layers(model).items():
        make = _linear_4bit if config.load_in_4bit else _linear_8bit
        quantised = make(weight_matrix(layer), layer.bias, config)
        quantised.source_cls = type(layer)  # as transformers marks the layers it replaced
        quantised.requires_grad_(requires_grad=False)
        model.set_submodule(name, quantised.train(layer.training))


def mend(model: Any) -> None:
    """Work around defects of 4-bit layers on CPUs.

    On processors with AVX512-BF16, bitsandbytes repacks weights in place at the first evaluation. Then gradients of
    adapters are wrong by half and more without an error, saved weights by a quarter (0.4 % with double quantisation),
    and layers whose out_features are not a multiple of 32 or whose in_features are not one of 64 raise: that path is
    switched off. With AVX512, rows that are not whole blocks are dequantised wrongly: such layers do it by themselves.
    """
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            if module.in_features % BLOCK and module.weight.device.type == "cpu":
                module.__class__ = Linear4bit  # in place: it keeps its quantised weight


class Linear4bit(bnb.nn.Linear4bit):  # type: ignore[misc]
    """bitsandbytes' layer for rows that are not whole blocks, on CPUs.

    As there, the product is one with the dequantised weight; here it is dequantised right. It is also kept until the
    backward pass, which such odd layers can afford.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features), in the input's dtype."""
        compute = self.compute_dtype or x.dtype
        bias = None if self.bias is None else self.bias.to(compute)
        return linear(x.to(compute), dequantised_4bit(self.weight).to(compute), bias).to(x.dtype)


def _linear_4bit(weight: Tensor, bias: nn.Parameter | None, config: Any) -> Any:
    """Four bits stored as bf16: T5 casts activations to the dtype of `wo.weight`, which must not be an integer's."""
    out_features, in_features = weight.shape
    kept_as = {
        "compress_statistics": config.bnb_4bit_use_double_quant,
        "quant_type": config.bnb_4bit_quant_type,
        "quant_storage": torch.bfloat16 if weight.numel() % 4 == 0 else torch.uint8,  # whole bf16 numbers
    }
    with torch.device("meta"):
        layer: Any = bnb.nn.Linear4bit(in_features, out_features, False, config.bnb_4bit_compute_dtype, **kept_as)
    dense = weight.to(torch.bfloat16).contiguous()
    layer.weight = bnb.nn.Params4bit(dense, requires_grad=False, module=layer, **kept_as).to(weight.device)
    layer.bias = bias
    return layer


def _linear_8bit(weight: Tensor, bias: nn.Parameter | None, config: Any) -> Any:
    out_features, in_features = weight.shape
    with torch.device("meta"):
        layer: Any = bnb.nn.Linear8bitLt(
            in_features, out_features, False, has_fp16_weights=False, threshold=config.llm_int8_threshold
        )
    dense = weight.to("cpu", torch.bfloat16).contiguous()  # bitsandbytes quantises on the way from the CPU
    layer.weight = bnb.nn.Int8Params(dense, requires_grad=False, has_fp16_weights=False).to(weight.device)
    layer.bias = bias
    return layer

"""Quantised weights by bitsandbytes, with 16-bit arithmetic."""

from dataclasses import dataclass, field
from typing import Any, Literal

from energyaware.precision.base import Device
from energyaware.spec import Method


@dataclass(frozen=True)
class Bitsandbytes:
    """Linear layers in 8 or 4 bits; what is not a linear layer stays in bf16.

    `options` are the fields of transformers' `BitsAndBytesConfig`.
    """

    name: str
    options: dict[str, Any] = field(hash=False)
    compute: Literal["bfloat16"] = "bfloat16"
    quantises: bool = True

    def refusal(self, device: Device, method: Method) -> str | None:
        """Quantised weights cannot require gradients: only adapters train."""
        if method == "full":
            return f"{self.name} weights cannot be trained: use finetune.method lora"
        return None

    def load_arguments(self) -> dict[str, Any]:
        """The quantisation settings, with lm_head left alone as transformers does by default."""
        import torch
        from transformers import BitsAndBytesConfig

        options = dict(self.options)
        if options.get("load_in_4bit"):
            options["bnb_4bit_compute_dtype"] = torch.bfloat16
        return {"dtype": torch.bfloat16, "quantization_config": BitsAndBytesConfig(**options)}

    def after_load(self, model: Any) -> None:
        """Switch off the AVX512-BF16 path of 4-bit layers.

        bitsandbytes 0.50.2 repacks 4-bit weights in place on such CPUs at the first evaluation: gradients of
        adapters are then silently wrong (relative error 1.29) and saved weights corrupt.
        """
        import bitsandbytes as bnb

        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False

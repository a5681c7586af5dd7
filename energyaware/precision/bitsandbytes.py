"""Quantised weights by bitsandbytes, with 16-bit arithmetic."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from energyaware.precision.arithmetic import float32_products
from energyaware.precision.base import Hardware, Needs, refusal_of
from energyaware.spec import Method


@dataclass(frozen=True)
class Bitsandbytes:
    """Linear layers in 8 or 4 bits; what is not a linear layer stays in bf16.

    int8 is LLM.int8() (Dettmers et al., 2022, arXiv 2208.07339); nf4 and its double quantisation, which quantises the
    scales of nf4's blocks too, are QLoRA's (Dettmers et al., 2023, arXiv 2305.14314).

    `options` are the fields of transformers' `BitsAndBytesConfig`.
    """

    name: str
    storage: Literal["int8", "fp4", "nf4"]
    options: dict[str, Any] = field(hash=False)
    compute: ClassVar[Literal["bfloat16"]] = "bfloat16"
    quantises: ClassVar[bool] = True
    trains: ClassVar[frozenset[Method]] = frozenset(("lora",))
    needs: ClassVar[Needs] = Needs(capability=(8, 0), library="bitsandbytes", instead="it computes in bf16; use fp16")

    def refusal(self, hardware: Hardware, method: Method) -> str | None:
        """As its needs say. Quantised weights cannot require gradients: only adapters train."""
        return refusal_of(self, hardware, method)

    def load_arguments(self) -> dict[str, Any]:
        """The quantisation settings, with lm_head left alone as transformers does by default."""
        import torch

        return {"dtype": torch.bfloat16, "quantization_config": self._config()}

    def after_load(self, model: Any) -> None:
        """Quantise what transformers left alone, and mend what bitsandbytes gets wrong on CPUs."""
        from energyaware.precision.bitsandbytes_layers import mend, quantise_rest

        quantise_rest(model, self._config())
        mend(model)

    def arithmetic(self) -> AbstractContextManager[None]:
        """Exact float32 products where a model has any."""
        return float32_products("exact")

    def _config(self) -> Any:
        import torch
        from transformers import BitsAndBytesConfig

        options = dict(self.options)
        if options.get("load_in_4bit"):
            options["bnb_4bit_compute_dtype"] = torch.bfloat16
        return BitsAndBytesConfig(**options)

"""Number formats without quantisation: every weight in the format of the arithmetic."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from energyaware.precision.arithmetic import float32_products
from energyaware.precision.base import ANYWHERE, Hardware, Needs, refusal_of
from energyaware.spec import Method


@dataclass(frozen=True)
class Dense:
    """fp32, tf32, bf16 or fp16 weights. `products` is how float32 matrices are multiplied."""

    name: str
    compute: Literal["float32", "bfloat16", "float16"]
    needs: Needs = ANYWHERE
    products: Literal["exact", "tf32"] = "exact"
    quantises: ClassVar[bool] = False
    trains: ClassVar[frozenset[Method]] = frozenset(("full", "lora"))

    @property
    def storage(self) -> str:
        """Weights are stored as they compute."""
        return self.compute

    def refusal(self, hardware: Hardware, method: Method) -> str | None:
        """As its needs say. fp16 on a CPU: plain training took 41 s a step where bf16 took 0.6 s."""
        return refusal_of(self, hardware, method)

    def load_arguments(self) -> dict[str, Any]:
        """The dtype."""
        import torch

        return {"dtype": getattr(torch, self.compute)}

    def after_load(self, model: Any) -> None:
        """Give layers that transformers keeps in float32 the format of the others.

        That is T5's `wo` under fp16, whose products overflow in large models; T5 clamps what overflowed. Left in
        float32, a third of its weights would not be what the row says, and DeepSpeed would make them fp16 anyway.
        """
        import torch

        from energyaware.layers import eligible_layers

        for layer in eligible_layers(model).values():
            layer.to(getattr(torch, self.compute))

    def arithmetic(self) -> AbstractContextManager[None]:
        """Exact float32 products, also for the parts of 16-bit models that are in float32; TF32 for tf32."""
        return float32_products(self.products)

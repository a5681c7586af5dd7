"""8-bit floating point weights and activations, for serving what was trained in another precision."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from energyaware.precision.arithmetic import float32_products
from energyaware.precision.base import Hardware, Needs, refusal_of
from energyaware.spec import Method


@dataclass(frozen=True)
class Float8:
    """Linear layers in e4m3 (Micikevicius et al., 2022, arXiv 2209.05433); what is not a linear layer stays in bf16.

    Weights are scaled by output row once, activations by token as they come; products are summed up in float32.
    """

    name: ClassVar[str] = "fp8"
    storage: ClassVar[str] = "float8_e4m3fn"
    compute: ClassVar[Literal["bfloat16"]] = "bfloat16"
    quantises: ClassVar[bool] = True
    trains: ClassVar[frozenset[Method]] = frozenset()
    needs: ClassVar[Needs] = Needs(("cuda",), (8, 9), instead="use int8 or bf16")

    def refusal(self, hardware: Hardware, method: Method) -> str | None:
        """As its needs say: tensor cores multiply 8-bit floats from Ada and Hopper on."""
        return refusal_of(self, hardware, method)

    def load_arguments(self) -> dict[str, Any]:
        """bf16: layers are converted one by one after loading."""
        import torch

        return {"dtype": torch.bfloat16}

    def after_load(self, model: Any) -> None:
        """Convert every eligible layer that computes what nn.Linear does; the audit names others."""
        from energyaware.layers import plain_layers, weight_matrix
        from energyaware.precision.float8_linear import Float8Linear

        for name, layer in plain_layers(model).items():
            converted = Float8Linear(weight_matrix(layer), layer.bias)
            model.set_submodule(name, converted.train(layer.training))

    def arithmetic(self) -> AbstractContextManager[None]:
        """Exact float32 products where a model has any."""
        return float32_products("exact")

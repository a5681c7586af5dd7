"""Number formats without quantisation: every weight in the format of the arithmetic."""

from dataclasses import dataclass
from typing import Any, Literal

from energyaware.precision.base import Device
from energyaware.spec import Method


@dataclass(frozen=True)
class Dense:
    """fp32, bf16 or fp16 weights."""

    name: str
    compute: Literal["float32", "bfloat16", "float16"]
    quantises: bool = False

    def refusal(self, device: Device, method: Method) -> str | None:
        """fp16 on a CPU is refused: DeepSpeed does, and plain training took 41 s a step where bf16 took 0.6 s."""
        if self.compute == "float16" and device == "cpu":
            return "fp16 is not supported on CPU (DeepSpeed refuses it; use bf16)"
        return None

    def load_arguments(self) -> dict[str, Any]:
        """The dtype."""
        import torch

        return {"dtype": getattr(torch, self.compute)}

    def after_load(self, model: Any) -> None:
        """Nothing to do."""

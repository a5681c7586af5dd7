"""What a precision is: what it needs, what it can train, and how a model is loaded in it."""

from typing import Any, Literal, Protocol

from energyaware.spec import Method

Device = Literal["cpu", "cuda"]


class Precision(Protocol):
    """One number format for weights and arithmetic.

    Attributes:
        name: as in the sweep file and in the tables.
        compute: torch dtype name of the arithmetic: float32, bfloat16 or float16.
        quantises: whether linear layers hold quantised weights, so that only adapters can be trained.
    """

    @property
    def name(self) -> str: ...
    @property
    def compute(self) -> Literal["float32", "bfloat16", "float16"]: ...
    @property
    def quantises(self) -> bool: ...

    def refusal(self, device: Device, method: Method) -> str | None:
        """Why this precision cannot do that here, or None if it can. Loads no library."""

    def load_arguments(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained`."""

    def after_load(self, model: Any) -> None:
        """Changes that the loaded model needs before its first forward."""

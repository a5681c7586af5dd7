"""What a precision is: what it needs, what it can train, and how a model is loaded in it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from energyaware.spec import Method

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Hardware:
    """What a worker computes on. `capability` is CUDA's compute capability, None on a CPU or where it is unknown."""

    device: Device
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Needs:
    """What a precision needs. `capability` is the least CUDA compute capability; on a CPU it asks for nothing.

    `instead` says what to do where that is not there.
    """

    devices: tuple[Device, ...] = ("cpu", "cuda")
    capability: tuple[int, int] | None = None
    library: str | None = None
    instead: str = ""


ANYWHERE: Final = Needs()
"""Nothing but a processor."""


class Precision(Protocol):
    """One number format for weights and arithmetic.

    Attributes:
        name: as in the sweep file and in the tables.
        storage: format of the linear layers' weights: float32, bfloat16, float16, int8, fp4, nf4, float8_e4m3fn.
        compute: torch dtype name of the arithmetic: float32, bfloat16 or float16.
        quantises: whether linear layers hold quantised weights.
        trains: methods of fine-tuning that it supports: full, lora, both or none.
        needs: devices, capability and library.
    """

    @property
    def name(self) -> str: ...
    @property
    def storage(self) -> str: ...
    @property
    def compute(self) -> Literal["float32", "bfloat16", "float16"]: ...
    @property
    def quantises(self) -> bool: ...
    @property
    def trains(self) -> frozenset[Method]: ...
    @property
    def needs(self) -> Needs: ...

    def refusal(self, hardware: Hardware, method: Method) -> str | None:
        """Why this precision cannot do that here, or None if it can: `refusal_of` says. Loads no library.

        A capability that is not known is not refused: the worker asks again on its GPU.
        """

    def load_arguments(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained`."""

    def after_load(self, model: Any) -> None:
        """Changes that the loaded model needs before its first forward."""

    def arithmetic(self) -> AbstractContextManager[None]:
        """The process's settings of arithmetic while a stage runs, put back afterwards: workers serve many stages."""


def refusal_of(precision: Precision, hardware: Hardware, method: Method) -> str | None:
    """The refusal that follows from what a precision needs and trains, in one line, or None."""
    needs, instead = precision.needs, f" ({precision.needs.instead})" if precision.needs.instead else ""
    if hardware.device not in needs.devices:
        return f"{precision.name} is not supported on {hardware.device.upper()}{instead}"
    least, found = needs.capability, hardware.capability
    if hardware.device == "cuda" and least and found and found < least:
        return f"{precision.name} needs compute capability {_dotted(least)}, this GPU has {_dotted(found)}{instead}"
    if method != "none" and method not in precision.trains:
        if "lora" in precision.trains:
            return f"{precision.name} weights cannot be trained: use finetune.method lora"
        return f"{precision.name} trains nothing: fine-tune in another precision and serve in {precision.name}"
    return None


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"

"""Number formats by name. To add one: a file with a class, and an entry here."""

from typing import Final

from energyaware.precision.base import Device, Precision
from energyaware.precision.bitsandbytes import Bitsandbytes
from energyaware.precision.dense import Dense

PRECISIONS: Final[dict[str, Precision]] = {
    "fp32": Dense("fp32", "float32"),
    "bf16": Dense("bf16", "bfloat16"),
    "fp16": Dense("fp16", "float16"),
    "int8": Bitsandbytes("int8", {"load_in_8bit": True}),
    "nf4": Bitsandbytes("nf4", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
}

__all__ = ["PRECISIONS", "Device", "Precision"]

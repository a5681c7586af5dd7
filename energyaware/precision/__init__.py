"""Number formats by name. To add one: a file with a class, and an entry here."""

from typing import Final

from energyaware.precision.base import Device, Hardware, Needs, Precision
from energyaware.precision.bitsandbytes import Bitsandbytes
from energyaware.precision.dense import Dense
from energyaware.precision.float8 import Float8

PRECISIONS: Final[dict[str, Precision]] = {
    "fp32": Dense("fp32", "float32"),
    "tf32": Dense("tf32", "float32", Needs(("cuda",), (8, 0), instead="use fp32"), products="tf32"),
    "bf16": Dense("bf16", "bfloat16", Needs(capability=(8, 0), instead="use fp16")),
    "fp16": Dense("fp16", "float16", Needs(("cuda",), instead="DeepSpeed refuses it; use bf16")),
    "int8": Bitsandbytes("int8", "int8", {"load_in_8bit": True}),
    "fp4": Bitsandbytes("fp4", "fp4", {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}),
    "nf4": Bitsandbytes("nf4", "nf4", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "nf4-dq": Bitsandbytes(
        "nf4-dq", "nf4", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    ),
    "fp8": Float8(),
}

__all__ = ["PRECISIONS", "Device", "Hardware", "Needs", "Precision"]

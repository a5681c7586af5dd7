"""How a process multiplies float32 matrices."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal


@contextmanager
def float32_products(precision: Literal["exact", "tf32"]) -> Iterator[None]:
    """Multiply float32 matrices exactly, or on CUDA with inputs rounded to TF32's 10 bits of mantissa.

    The setting is the process's: what it was before is put back. Of torch's interfaces to it this one sets all
    backends alike; setting CUDA's alone makes the others raise "mix of the legacy and new APIs" when they are read.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

"""How much a fine-tuning's checkpoints take, as far as that follows from the base model's files."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from energyaware.spec import FinetuneSpec, StageSpec

BYTES_PER_WEIGHT: Final = 14
"""Of a trained weight, at most: itself in half precision, in fp32, and AdamW's two moments in fp32."""


def checkpoints_bytes(specs: Iterable[StageSpec], keep: int) -> int | None:
    """What the largest of these fine-tunings keeps, with one more that is being written; None where no size is known.

    Sizes are known of models in folders.
    """
    folders = [spec for spec in specs if isinstance(spec, FinetuneSpec) and spec.model.kind == "folder"]
    return max(((keep + 1) * BYTES_PER_WEIGHT * trained_weights(spec) for spec in folders), default=None)


def trained_weights(spec: FinetuneSpec) -> int:
    """How many weights a fine-tuning of a model in a folder trains; with LoRA, at most."""
    shapes = [shape for file in Path(spec.model.location).glob("*.safetensors") for shape in shapes_in(file)]
    if spec.method == "lora":
        return sum(spec.lora_rank * sum(shape) for shape in shapes if len(shape) == 2)  # noqa: PLR2004
    return sum(math.prod(shape) for shape in shapes)


def shapes_in(file: Path) -> Iterator[list[int]]:
    """Shapes of the tensors in a safetensors file: it begins with the length of a JSON header, 8 bytes, little-endian.

    https://github.com/huggingface/safetensors#format
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    yield from (about["shape"] for name, about in header.items() if name != "__metadata__")

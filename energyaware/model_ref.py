"""Which base model a sweep means: its name and what pins its content. Loads neither torch nor transformers."""

import hashlib
from pathlib import Path
from typing import Final

from energyaware.builtin_model import builtin_ref
from energyaware.errors import InputError
from energyaware.spec import ModelRef

WHOLE_BELOW_BYTES: Final = 64 * 2**20
"""Larger files are hashed by size and samples: a plan must not read 140 GB of weights."""
SAMPLES, SAMPLE_BYTES = 16, 2**20

__all__ = ["builtin_ref", "folder_ref", "hub_ref"]


def folder_ref(folder: Path, field: str, *, trust_remote_code: bool = False) -> ModelRef:
    """A model in a folder as `save_pretrained` writes it, pinned by its content.

    Raises:
        InputError: the folder is missing, or lacks configuration, safetensors weights or a tokenizer.
    """
    if not folder.is_dir():
        raise InputError(folder, field, "no such folder")
    if not (folder / "config.json").exists():
        raise InputError(folder, field, "holds no config.json: not a model folder as save_pretrained writes it")
    if not any(folder.glob("*.safetensors")):
        raise InputError(folder, field, "holds no *.safetensors; weights are loaded from safetensors alone")
    if not any(folder.glob("tokenizer*")) and not (folder / "vocab.json").exists():
        raise InputError(folder, field, "holds no tokenizer files")
    return ModelRef("folder", folder.resolve().name, content_hash(folder), str(folder.resolve()), trust_remote_code)


def hub_ref(name: str, revision: str, *, trust_remote_code: bool = False) -> ModelRef:
    """A model of the Hugging Face hub at a revision."""
    return ModelRef("hub", name, revision, name, trust_remote_code)


def content_hash(folder: Path) -> str:
    """First 12 hexadecimal digits of a SHA-256 over names, sizes and content of the folder's own files.

    Of files larger than 64 MiB, 16 samples of 1 MiB evenly spread stand for the content; a safetensors header, which
    names every tensor, is in the first of them.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE_BELOW_BYTES:
                digest.update(file.read())
                continue
            for sample in range(SAMPLES):
                file.seek(sample * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:12]

"""Which base model a sweep means: its name and what pins its content. Loads neither torch nor transformers."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from energyaware.builtin_model import builtin_ref
from energyaware.errors import InputError
from energyaware.hub import asking_hub
from energyaware.spec import ModelRef

WHOLE_BELOW_BYTES: Final = 64 * 2**20
"""Larger files are hashed by size and samples: a plan must not read 140 GB of weights."""
SAMPLES, SAMPLE_BYTES = 16, 2**20

__all__ = ["builtin_ref", "folder_ref", "hub_ref", "pinned"]


def folder_ref(folder: Path, field: str, *, trust_remote_code: bool = False) -> ModelRef:
    """A model in a folder as `save_pretrained` writes it, pinned by its content.

    Raises:
        InputError: the folder is missing, or lacks configuration, safetensors weights or a tokenizer.
    """
    if not folder.is_dir():
        raise InputError(folder, field, "no such folder; a model of the hub is {hub: NAME}")
    if not (folder / "config.json").exists():
        raise InputError(folder, field, "holds no config.json: not a model folder as save_pretrained writes it")
    if not any(folder.glob("*.safetensors")):
        raise InputError(folder, field, "holds no *.safetensors; weights are loaded from safetensors alone")
    if not any(folder.glob("tokenizer*")) and not (folder / "vocab.json").exists():
        raise InputError(folder, field, "holds no tokenizer files")
    location = str(folder.resolve())
    family = model_type(folder / "config.json", field)
    return ModelRef(
        "folder", folder.resolve().name, content_hash(own_files(folder)), location, trust_remote_code, family
    )


def hub_ref(name: str, revision: str, field: str, *, trust_remote_code: bool = False) -> ModelRef:
    """A model of the Hugging Face hub at a revision; its family is known once its configuration is in the cache.

    Nothing is downloaded, and where the hub's library is not installed the family is left open.

    Raises:
        InputError: the name cannot be one of the hub's.
    """
    try:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except ImportError:
        cached = None
    except ValueError as error:
        raise InputError(name, field, f"is no id of the Hugging Face hub: {error}") from None
    family = model_type(Path(cached), name) if isinstance(cached, str) else ""
    return ModelRef("hub", name, revision, name, trust_remote_code, family)


def pinned(model: ModelRef) -> ModelRef:
    """The same model, at a place that names the commit of the hub which its revision is now: name@commit.

    A branch may move while nodes download it, and later. Where the hub cannot be reached, what its cache on this
    machine has of that revision counts.

    Raises:
        InputError: the hub does not have it, or does not let this user have it.
    """
    if model.kind != "hub" or "@" in model.location:
        return model
    from huggingface_hub import hf_hub_download

    with asking_hub(model.name, "model.hub", f"{model.name} at revision {model.revision!r}"):
        config = hf_hub_download(model.name, "config.json", revision=model.revision)
    return replace(model, location=f"{model.name}@{Path(config).parent.name}")


def model_type(config: Path, field: str) -> str:
    """The architecture that a config.json is of, as transformers calls it; "" where it names none.

    Raises:
        InputError: the file is no JSON object.
    """
    try:
        content = json.loads(config.read_text())
    except (ValueError, OSError) as error:
        raise InputError(config, field, f"cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(config, field, "is no JSON object: not a configuration as save_pretrained writes it")
    return str(content.get("model_type", ""))


def own_files(folder: Path) -> list[Path]:
    """The files of a model folder that its content is pinned by: not hidden, and not in folders below it."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]


def content_hash(files: Iterable[Path]) -> str:
    """First 12 hexadecimal digits of a SHA-256 over names, sizes and content of files.

    Of files larger than 64 MiB, 16 samples of 1 MiB evenly spread stand for the content; a safetensors header, which
    names every tensor, is in the first of them.
    """
    digest = hashlib.sha256()
    for path in files:
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

"""Base models and tokenizers: where they come from and how they are loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.builtin_model import MODELS
from energyaware.errors import InputError, StageError
from energyaware.hub import asking_hub
from energyaware.model_ref import content_hash, own_files
from energyaware.node_cache import near

if TYPE_CHECKING:
    from energyaware.precision import Device, Precision
    from energyaware.spec import ModelRef


WEIGHTS: Final = "*.safetensors"

READ: Final = (WEIGHTS, "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""Files of a model on the hub that loading reads: weights from safetensors alone, configuration, tokenizer."""

UNREAD: Final = ("*/*", "consolidated*")
"""Of those, what is there a second time in formats of others."""


def folder_of(model: ModelRef) -> Path:
    """Where the model lies on this machine. It is brought there first where it is not, once for all processes.

    One of the hub is downloaded to the hub's own cache (HF_HOME). What lies on a file system of the network, be it
    that cache or the user's folder, is copied to `energyaware.node_cache`.

    Raises:
        InputError: it cannot be downloaded or copied, or is another than when the plan was made.
    """
    if model.kind == "builtin":
        from energyaware.builtin_model import ensure_builtin_model

        return ensure_builtin_model()
    pin, folder = model.revision, Path(model.location)
    if model.kind == "hub":
        folder = _downloaded(model)
        pin = folder.name
    if not folder.is_dir():
        raise InputError(folder, "model.folder", "no such folder")

    def check(copies: Sequence[Path]) -> None:
        if model.kind == "folder" and content_hash(copies) != pin:
            raise InputError(folder, "model.folder", "the content has changed since the plan was made")

    name = f"{model.name.replace('/', '--')}-{pin}"
    return near(own_files(folder), MODELS, name, check)[0].parent


def _downloaded(model: ModelRef) -> Path:
    """The hub's snapshot of the model. The hub's own client sees to it that processes do not download it twice.

    Raises:
        InputError: the hub does not have it, it has no weights in safetensors, or there is no room for it.
    """
    from huggingface_hub import snapshot_download

    name, commit = _pin(model)
    with asking_hub(name, "model.hub", f"{name} at revision {commit!r}"):
        folder = Path(
            snapshot_download(
                name,
                revision=commit,
                allow_patterns=[*READ, "*.py"] if model.trust_remote_code else [*READ],
                ignore_patterns=[*UNREAD],
            )
        )
    if not any(folder.glob(WEIGHTS)):
        raise InputError(model.name, "model.hub", f"holds no {WEIGHTS}; weights are loaded from safetensors alone")
    return folder


def _pin(model: ModelRef) -> tuple[str, str]:
    """A hub model's id and commit; what the sweep file gives as its revision, where no commit is known yet."""
    name, _, commit = model.location.partition("@")
    return name, commit or model.revision


def context_length(model: Any, tokenizer: Any) -> int:
    """Tokens that the model reads at once: its positions, and where it counts none (T5), what its tokenizer says.

    A very large number where neither says.
    """
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    return positions or min(tokenizer.model_max_length, sys.maxsize)


def decoder_start_id(model: Any) -> int | None:
    """The token that an encoder-decoder's answers start after; None for a decoder, whose answers follow the prompt.

    Raises:
        StageError: an encoder-decoder whose configuration names none.
    """
    if not model.config.is_encoder_decoder:
        return None
    start: int | None = model.config.decoder_start_token_id
    if start is None:
        raise StageError("the model is an encoder-decoder, but its configuration names no decoder_start_token_id")
    return start


def load_tokenizer(model: ModelRef) -> Any:
    """The model's tokenizer, with a padding token (the end-of-text token where it has none).

    Raises:
        StageError: it has no end-of-text token, which every answer ends with.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder_of(model), trust_remote_code=model.trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise StageError(f"{model.name}: the tokenizer has no end-of-text token (eos_token)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: ModelRef, precision: Precision, device: Device, folder: Path | None = None) -> Any:
    """The model in that precision on that device, weights from safetensors alone: a decoder or an encoder-decoder.

    `folder` holds plain weights to load in place of the base model's: pruned, or fine-tuned in full.
    """
    import torch

    index = torch.cuda.current_device() if device == "cuda" else None
    folder = folder or folder_of(model)
    architecture, _ = _architecture(model, {"pretrained_model_name_or_path": folder})
    loaded = architecture.from_pretrained(
        folder,
        **precision.load_arguments(),
        use_safetensors=True,
        trust_remote_code=model.trust_remote_code,
        device_map={"": torch.device(device, index) if index is not None else device},
    )
    precision.after_load(loaded)
    loaded.config.use_cache = True
    return loaded


def skeleton(model: ModelRef) -> Any:
    """The model without weights, from its configuration alone: names and shapes, on torch's meta device."""
    import torch

    where: dict[str, Any] = {"pretrained_model_name_or_path": model.location}
    if model.kind == "builtin":
        where = {"pretrained_model_name_or_path": folder_of(model)}
    elif model.kind == "hub":
        name, commit = _pin(model)
        where = {"pretrained_model_name_or_path": name, "revision": commit}
    architecture, config = _architecture(model, where)
    with torch.device("meta"):
        return architecture.from_config(config, trust_remote_code=model.trust_remote_code)


def _architecture(model: ModelRef, where: dict[str, Any]) -> tuple[Any, Any]:
    """The class that transformers loads the model with, and its configuration."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.from_pretrained(**where, trust_remote_code=model.trust_remote_code)
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM, config

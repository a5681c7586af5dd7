"""Base models and tokenizers: where they come from and how they are loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyaware.errors import StageError

if TYPE_CHECKING:
    from energyaware.precision import Device, Precision
    from energyaware.spec import ModelRef


def locate(model: ModelRef) -> dict[str, Any]:
    """Arguments of `from_pretrained` that name the model and pin its revision."""
    if model.kind == "builtin":
        from energyaware.builtin_model import ensure_builtin_model

        return {"pretrained_model_name_or_path": str(ensure_builtin_model())}
    if model.kind == "hub":
        return {"pretrained_model_name_or_path": model.location, "revision": model.revision}
    return {"pretrained_model_name_or_path": model.location}


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
    """The model's tokenizer, with a padding token (the end-of-text token where it has none)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(**locate(model), trust_remote_code=model.trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: ModelRef, precision: Precision, device: Device, folder: Path | None = None) -> Any:
    """The model in that precision on that device, weights from safetensors alone: a decoder or an encoder-decoder.

    `folder` holds plain weights to load in place of the base model's: pruned, or fine-tuned in full.
    """
    import torch

    index = torch.cuda.current_device() if device == "cuda" else None
    where = locate(model) if folder is None else {"pretrained_model_name_or_path": str(folder)}
    architecture, _ = _architecture(model, where)
    loaded = architecture.from_pretrained(
        **where,
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

    architecture, config = _architecture(model, locate(model))
    with torch.device("meta"):
        return architecture.from_config(config, trust_remote_code=model.trust_remote_code)


def _architecture(model: ModelRef, where: dict[str, Any]) -> tuple[Any, Any]:
    """The class that transformers loads the model with, and its configuration."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.from_pretrained(**where, trust_remote_code=model.trust_remote_code)
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM, config

"""Base models and tokenizers: where they come from, how they are loaded, and what was loaded."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.errors import AuditError
from energyaware.layers import eligible_layers, is_quantised
from energyaware.rows import Row

if TYPE_CHECKING:
    from energyaware.precision import Device, Precision
    from energyaware.spec import ModelRef

EXPECTED_SHARE: Final = 0.9
"""Below this share of eligible weights quantised, the stage's name would not say what was measured."""


@dataclass(frozen=True)
class Audit:
    """What was loaded."""

    eligible_layers: int
    quantised_layers: int
    skipped_layers: tuple[str, ...]
    weight_bytes: int

    @property
    def columns(self) -> Row:
        """As columns of the stage's row."""
        return {**asdict(self), "skipped_layers": list(self.skipped_layers)}


def locate(model: ModelRef) -> dict[str, Any]:
    """Arguments of `from_pretrained` that name the model and pin its revision."""
    if model.kind == "builtin":
        from energyaware.builtin_model import ensure_builtin_model

        return {"pretrained_model_name_or_path": str(ensure_builtin_model())}
    if model.kind == "hub":
        return {"pretrained_model_name_or_path": model.location, "revision": model.revision}
    return {"pretrained_model_name_or_path": model.location}


def context_length(model: Any) -> int:
    """Tokens that the model has positions for; a very large number where it does not say."""
    return getattr(model.config, "max_position_embeddings", None) or sys.maxsize


def load_tokenizer(model: ModelRef) -> Any:
    """The model's tokenizer, with a padding token (the end-of-text token where it has none)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(**locate(model), trust_remote_code=model.trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: ModelRef, precision: Precision, device: Device, folder: Path | None = None) -> Any:
    """The model in that precision on that device, weights from safetensors alone.

    `folder` holds plain weights to load in place of the base model's: pruned, or fine-tuned in full.
    """
    import torch
    from transformers import AutoModelForCausalLM

    index = torch.cuda.current_device() if device == "cuda" else None
    where = locate(model) if folder is None else {"pretrained_model_name_or_path": str(folder)}
    loaded = AutoModelForCausalLM.from_pretrained(
        **where,
        **precision.load_arguments(),
        use_safetensors=True,
        trust_remote_code=model.trust_remote_code,
        device_map={"": torch.device(device, index) if index is not None else device},
    )
    precision.after_load(loaded)
    loaded.config.use_cache = True
    return loaded


def audit(model: Any, precision: Precision) -> Audit:
    """What the loaded model consists of.

    Raises:
        AuditError: the precision quantises, but left more layers alone than a tenth of the weights.
    """
    layers = eligible_layers(model)
    skipped = [name for name, layer in layers.items() if not is_quantised(layer)] if precision.quantises else []
    quantised = [name for name, layer in layers.items() if is_quantised(layer)]
    left = sum(layers[name].weight.numel() for name in skipped)
    done = sum(layers[name].out_features * layers[name].in_features for name in quantised)
    if precision.quantises and (not quantised or done < EXPECTED_SHARE * (done + left)):
        names = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")  # noqa: PLR2004
        raise AuditError(f"{precision.name}: {len(skipped)} of {len(layers)} linear layers were not quantised: {names}")
    return Audit(
        eligible_layers=len(layers),
        quantised_layers=len(quantised),
        skipped_layers=tuple(skipped),
        weight_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
    )

"""Model families by transformers' model_type. To add one: an entry here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from energyaware.errors import AuditError
from energyaware.families.base import Attention, Family, FeedForward

_GATED: Final = FeedForward("mlp", ("gate_proj", "up_proj"), "down_proj", "intermediate_size")
_GROUPED: Final = Attention(
    modules=("self_attn",),
    query="q_proj",
    key="k_proj",
    value="v_proj",
    out="o_proj",
    heads="num_attention_heads",
    head_dim="head_dim",
    groups="num_key_value_heads",
)
_LLAMA_ATTENTION: Final = replace(_GROUPED, heads_divide_width=True)


def _head_width_is_derived(model_class: str) -> dict[str, str]:
    return {
        "heads": f"transformers' {model_class} takes a head's width from hidden size / heads, so a model "
        "with fewer heads cannot be loaded"
    }


FAMILIES: Final[dict[str, Family]] = {
    "llama": Family(
        "llama",
        stacks=("model.layers",),
        feed_forward=_GATED,
        attention=_LLAMA_ATTENTION,
    ),
    "mistral": Family(
        "mistral",
        stacks=("model.layers",),
        feed_forward=_GATED,
        attention=_GROUPED,
    ),
    "falcon": Family(
        "falcon",
        stacks=("transformer.h",),
        feed_forward=FeedForward("mlp", ("dense_h_to_4h",), "dense_4h_to_h", "ffn_hidden_size"),
        plain_linear=frozenset({"FalconLinear"}),
        cannot=_head_width_is_derived("FalconAttention"),
    ),
    "gpt2": Family(
        "gpt2",
        stacks=("transformer.h",),
        depths=("n_layer",),
        feed_forward=FeedForward("mlp", ("c_fc",), "c_proj", "n_inner"),
        depth_matters={"scale_attn_by_inverse_layer_idx": "attention is scaled by the block's place in the stack"},
        cannot=_head_width_is_derived("GPT2Attention"),
    ),
    "gptj": Family(
        "gptj",
        stacks=("transformer.h",),
        depths=("n_layer",),
        feed_forward=FeedForward("mlp", ("fc_in",), "fc_out", "n_inner"),
        cannot=_head_width_is_derived("GPTJAttention"),
    ),
    "gpt_neo": Family(
        "gpt_neo",
        stacks=("transformer.h",),
        depths=("num_layers",),
        feed_forward=FeedForward("mlp", ("c_fc",), "c_proj", "intermediate_size"),
        per_layer=("attention_layers",),
        per_layer_runs={"attention_types": "attention_layers"},
        cannot=_head_width_is_derived("GPTNeoSelfAttention"),
    ),
    "t5": Family(
        "t5",
        encoder_decoder=True,
        stacks=("encoder.block", "decoder.block"),
        depths=("num_layers", "num_decoder_layers"),
        feed_forward=FeedForward("DenseReluDense", ("wi", "wi_0", "wi_1"), "wo", "d_ff"),
        attention=Attention(
            modules=("SelfAttention", "EncDecAttention"),
            query="q",
            key="k",
            value="v",
            out="o",
            heads="num_heads",
            head_dim="d_kv",
            position_bias="relative_attention_bias",
            biased=frozenset({"SelfAttention"}),
            heads_attribute="n_heads",
            width_attribute="inner_dim",
        ),
        first_block_stays=True,
    ),
}


def family_of(config: Any) -> Family:
    """The family of a transformers config.

    Raises:
        AuditError: this project does not know it; the message lists those it does.
    """
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        raise AuditError(f"the model family {config.model_type!r} is not known: {', '.join(FAMILIES)} are") from None


__all__ = ["FAMILIES", "Attention", "Family", "FeedForward", "family_of"]

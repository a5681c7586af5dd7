"""Tiny models of real families, with random weights, as folders that `from_pretrained` reads.

Widths are multiples of 64, so that n:m patterns and quantisation blocks fit. FAMILIES_TINY is what contract tests
iterate over; VARIANTS_TINY are other shapes of the same families.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

WORDS = [
    "alarm",
    "link",
    "down",
    "up",
    "fibre",
    "power",
    "card",
    "site",
    "port",
    "router",
    "ticket",
    "cause",
    "answer",
    "loss",
    "signal",
    "voltage",
]


def save_tokenizer(folder: Path, specials: tuple[str, ...] = ("<eos>",)) -> int:
    """A small byte-level BPE tokenizer of our own; returns its vocabulary size.

    `specials` are the first tokens, the last of them ends a text; "<pad>" is the padding token where it is one. A
    tokenizer with a padding token ends its prompts, as T5's does.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(specials), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    pads = "<pad>" in specials
    if pads:
        end = (specials[-1], len(specials) - 1)
        tokenizer.post_processor = processors.TemplateProcessing(single="$A " + end[0], special_tokens=[end])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=specials[-1], pad_token="<pad>" if pads else None
    )
    fast.save_pretrained(folder)
    return len(fast)


def _save(folder: Path, model_class: str, config: Any, seed: int) -> Path:
    import torch
    import transformers

    torch.manual_seed(seed)
    getattr(transformers, model_class)(config).save_pretrained(folder)
    return folder


def save_llama(folder: Path, seed: int = 0, hidden: int = 64, layers: int = 2) -> Path:
    """A Llama with grouped-query attention and untied embeddings."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return _save(folder, "LlamaForCausalLM", config, seed)


def save_mistral(folder: Path, seed: int = 0) -> Path:
    """A Mistral whose window of 8 tokens is shorter than most prompts."""
    from transformers import MistralConfig

    config = MistralConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=8,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return _save(folder, "MistralForCausalLM", config, seed)


def save_mixtral(folder: Path, seed: int = 0) -> Path:
    """A mixture of experts, whose experts are no linear layers: for what is refused."""
    from transformers import MixtralConfig

    config = MixtralConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return _save(folder, "MixtralForCausalLM", config, seed)


def save_falcon(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A Falcon of the new decoder architecture (40B, 180B): grouped keys and values, two norms in parallel."""
    from transformers import FalconConfig

    settings = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = FalconConfig(vocab_size=save_tokenizer(folder), **settings | changes)
    return _save(folder, "FalconForCausalLM", config, seed)


def save_falcon_multi_query(folder: Path, seed: int = 0) -> Path:
    """A Falcon like the 7B: one head of keys and values, attention and feed-forward in parallel."""
    return save_falcon(folder, seed, new_decoder_architecture=False, multi_query=True, parallel_attn=True)


def save_falcon_alibi(folder: Path, seed: int = 0) -> Path:
    """A Falcon like the RW models: positions as linear biases, biases in its layers, no parallel attention."""
    return save_falcon(
        folder,
        seed,
        new_decoder_architecture=False,
        multi_query=False,
        num_kv_heads=4,
        parallel_attn=False,
        alibi=True,
        bias=True,
    )


def save_gpt2(folder: Path, seed: int = 0, positions: int = 256) -> Path:
    """A GPT-2: Conv1D layers, tied embeddings, no padding token."""
    from transformers import GPT2Config

    config = GPT2Config(
        vocab_size=save_tokenizer(folder),
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=positions,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save(folder, "GPT2LMHeadModel", config, seed)


def save_gptj(folder: Path, seed: int = 0) -> Path:
    """A GPT-J: rotary positions on a part of each head, attention and feed-forward in parallel."""
    from transformers import GPTJConfig

    config = GPTJConfig(
        vocab_size=save_tokenizer(folder),
        n_embd=64,
        n_layer=2,
        n_head=4,
        rotary_dim=8,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save(folder, "GPTJForCausalLM", config, seed)


def save_gpt_neo(folder: Path, seed: int = 0) -> Path:
    """A GPT-Neo: a global layer and a local one that sees 6 tokens."""
    from transformers import GPTNeoConfig

    config = GPTNeoConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=64,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        window_size=6,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save(folder, "GPTNeoForCausalLM", config, seed)


def save_t5(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A T5: encoder and decoder, tied embeddings, a padding token that starts the answer."""
    from transformers import T5Config

    settings = {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    config = T5Config(vocab_size=save_tokenizer(folder, ("<pad>", "<eos>")), **settings | changes)
    return _save(folder, "T5ForConditionalGeneration", config, seed)


def save_t5_gated(folder: Path, seed: int = 0) -> Path:
    """A T5 of version 1.1 (Flan-T5): gated feed-forward layers, an output head of its own."""
    return save_t5(folder, seed, feed_forward_proj="gated-gelu", tie_word_embeddings=False)


FAMILIES_TINY: Final[dict[str, Callable[[Path], Path]]] = {
    "llama": save_llama,
    "mistral": save_mistral,
    "falcon": save_falcon,
    "gpt2": save_gpt2,
    "gptj": save_gptj,
    "gpt_neo": save_gpt_neo,
    "t5": save_t5,
}
"""By transformers' model_type."""

VARIANTS_TINY: Final[dict[str, Callable[[Path], Path]]] = {
    "falcon-multi-query": save_falcon_multi_query,
    "falcon-alibi": save_falcon_alibi,
    "t5-gated": save_t5_gated,
}
"""Other shapes of these families."""

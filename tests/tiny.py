"""Tiny models of real families, with random weights, as folders that `from_pretrained` reads."""

from pathlib import Path

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


def save_tokenizer(folder: Path) -> int:
    """A small byte-level BPE tokenizer of our own; returns its vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    fast.save_pretrained(folder)
    return len(fast)


def save_llama(folder: Path, seed: int = 0, hidden: int = 64, layers: int = 2) -> Path:
    """A Llama with grouped-query attention and untied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    size = save_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size,
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
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_gpt2(folder: Path, seed: int = 0) -> Path:
    """A GPT-2: Conv1D layers, tied embeddings, no padding token."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    size = save_tokenizer(folder)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=size, n_embd=64, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder

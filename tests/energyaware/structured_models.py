"""Small random models of every family for structured pruning: more blocks, heads and biases than tests.tiny needs."""

import copy
from functools import cache

import torch
import transformers

from energyaware.families import FAMILIES, family_of
from energyaware.pruning import PRUNERS
from energyaware.spec import Pruning

VOCABULARY = 96
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
T5_ENDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
# No width is, before or after, a multiple of 16 that is none of 64: bitsandbytes 0.50.2 dequantises such 4-bit layers
# wrongly on AVX512 processors (relative error 0.25 to 0.4 in place of 0.09), whether pruned or not.
CONFIGS = {
    # A head_dim that is not hidden size / heads, and biases wherever Llama can have them.
    "llama": ("LlamaForCausalLM", "LlamaConfig", dict(
        hidden_size=64, intermediate_size=100, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4,
        head_dim=16, attention_bias=True, mlp_bias=True, **ENDS)),
    "mistral": ("MistralForCausalLM", "MistralConfig", dict(
        hidden_size=64, intermediate_size=100, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=3,
        head_dim=10, sliding_window=8, **ENDS)),
    "falcon": ("FalconForCausalLM", "FalconConfig", dict(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True,
        ffn_hidden_size=100, **ENDS)),
    "falcon-alibi": ("FalconForCausalLM", "FalconConfig", dict(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, alibi=True, bias=True, multi_query=False,
        parallel_attn=False, **ENDS)),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", dict(n_embd=64, n_layer=4, n_head=4, n_positions=128, **ENDS)),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", dict(
        n_embd=64, n_layer=4, n_head=4, rotary_dim=8, n_positions=128, **ENDS)),
    "gpt_neo": ("GPTNeoForCausalLM", "GPTNeoConfig", dict(
        hidden_size=64, num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]], window_size=6,
        max_position_embeddings=128, **ENDS)),
    "t5": ("T5ForConditionalGeneration", "T5Config", dict(
        d_model=64, d_kv=14, d_ff=100, num_layers=4, num_decoder_layers=3, num_heads=4, **T5_ENDS)),
    "t5-gated": ("T5ForConditionalGeneration", "T5Config", dict(
        d_model=64, d_kv=18, d_ff=100, num_layers=4, num_heads=4, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, **T5_ENDS)),
}  # fmt: skip
STRENGTHS = (0.05, 1.0, 0.1, 3.0)
"""What each block adds to what passes through it: the first ones are not those that matter most."""
SHARES = {"heads": 0.5, "neurons": 0.3, "layers": 0.4} | {("mistral", "heads"): 1 / 3, ("t5", "heads"): 0.25}
CASES = [
    (model, pruner)
    for model in CONFIGS
    for pruner in ("heads", "neurons", "layers")
    if pruner != "heads" or model in {"llama", "mistral", "t5", "t5-gated"}
]


def build(name, **changes):
    """The model of that name. Every weight is random, also biases and norms: zeros would hide mistakes."""
    model_class, config_class, settings = CONFIGS[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(vocab_size=VOCABULARY, **settings | changes)
    model = getattr(transformers, model_class)(config).eval()
    model.generation_config.eos_token_id = None  # answers of full length
    model.generation_config.pad_token_id = 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for path in family_of(config).stacks if config.model_type in FAMILIES else ():
            for strength, block in zip(STRENGTHS, model.get_submodule(path), strict=False):
                for layer in writers(block):
                    for parameter in layer.parameters():
                        parameter.mul_(strength)
    return model


def batches(model, lengths=((11, 7, 4), (9, 9)), answers=((5, 3, 6), (2, 4))):
    """Calibration batches, padded on the right with tokens that would count if they were looked at."""
    generator = torch.Generator().manual_seed(1)

    def padded(rows, prefix=""):
        ids = torch.randint(2, VOCABULARY, (len(rows), max(rows)), generator=generator)
        mask = torch.arange(max(rows))[None, :] < torch.tensor(rows)[:, None]
        return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask.long()}

    if not model.config.is_encoder_decoder:
        return [padded(rows) for rows in lengths]
    return [padded(rows) | padded(out, "decoder_") for rows, out in zip(lengths, answers, strict=True)]


def unpadded(calibration):
    """Each example by itself, its padding cut off, without masks."""
    for batch in calibration:
        for row in range(len(batch["input_ids"])):
            yield {
                f"{prefix}input_ids": batch[f"{prefix}input_ids"][
                    row : row + 1, : batch[f"{prefix}attention_mask"][row].sum()
                ]
                for prefix in ("", "decoder_")
                if f"{prefix}input_ids" in batch
            }


def share(name, pruner):
    return SHARES.get((name, pruner), SHARES[pruner])


@cache
def pruned(name, pruner):
    """(dense model, pruned model, what was removed); not to be changed by tests."""
    dense = build(name)
    model = copy.deepcopy(dense)
    pruning = Pruning(pruner, share(name, pruner), "structured", "after")
    return dense, model, PRUNERS[pruner].prune(model, pruning, batches(model), seed=0).removed


def blocks_of(model):
    return [block for path in family_of(model.config).stacks for block in model.get_submodule(path)]


def logits(model, seed=2):
    """Of a batch with padding."""
    batch = batches(model, lengths=((12, 6),), answers=((7, 3),))[0]
    with torch.no_grad():
        out = model(**batch).logits
    return out[batch["decoder_attention_mask" if model.config.is_encoder_decoder else "attention_mask"].bool()]


def modules_of(model, kind):
    """All modules of a model that are called so, in order."""
    return [module for name, module in model.named_modules() if name.rpartition(".")[2] == kind]


def writers(block):
    """The linear layers of a block that write to what passes through it: without them it does nothing."""
    names = {"o_proj", "down_proj", "dense", "dense_4h_to_h", "c_proj", "out_proj", "fc_out", "o", "wo"}
    return [module for name, module in block.named_modules() if name.rpartition(".")[2] in names]

"""Answering requests with a decoder: prefill once, then choose a label or generate, on one key-value cache."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Prefilled:
    """Prompts that were read.

    Attributes:
        cache: their keys and values; the functions below extend it.
        attention: (batch, length) int64, 0 at padding.
        logits: (batch, vocabulary) float32, of each prompt's next token.
    """

    cache: Any
    attention: Tensor
    logits: Tensor


def prefill(model: Any, ids: Tensor, attention: Tensor) -> Prefilled:
    """Read prompts: ids and attention (batch, length) int64, padded on the left."""
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    output = _forward(model, ids, attention, positions, None, last_only=True)
    return Prefilled(output.past_key_values, attention, output.logits[:, -1].float())


def generate(model: Any, prompts: Prefilled, max_new_tokens: int, stop_id: int | None) -> Tensor:
    """Greedy decoding, (batch, new tokens) int64.

    Args:
        model: the model that read the prompts.
        prompts: what it read; its cache holds the new tokens afterwards.
        max_new_tokens: upper bound, reached by every row where there is no stop token.
        stop_id: token after which a row is finished; what follows it in the row is meaningless. None decodes on, so
            that every configuration is measured over the same number of tokens.
    """
    import torch

    attention, positions = prompts.attention, prompts.attention.sum(-1, keepdim=True)
    token = prompts.logits.argmax(-1, keepdim=True)
    tokens = [token]
    running = torch.ones_like(token, dtype=torch.bool)
    for step in range(1, max_new_tokens):
        if stop_id is not None:
            running &= token != stop_id
            if not bool(running.any()):
                break
        attention = torch.cat([attention, torch.ones_like(token)], dim=-1)
        output = _forward(model, token, attention, positions + step - 1, prompts.cache)
        token = output.logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(token)
    return torch.cat(tokens, dim=-1)


def choose(model: Any, prompts: Prefilled, labels: Sequence[Sequence[int]]) -> Tensor:
    """Index of the most likely label of each prompt, (batch,) int64; uses up the cache.

    A label's likelihood is that of all its tokens, end-of-text included, so that long and short ones compare.
    """
    import torch
    from torch.nn.functional import log_softmax

    count, longest = len(labels), max(len(label) for label in labels)
    device, batch = prompts.logits.device, len(prompts.logits)
    ids = torch.zeros((count, longest), dtype=torch.int64)
    present = torch.zeros((count, longest), dtype=torch.int64)
    for row, label in enumerate(labels):
        ids[row, : len(label)] = torch.tensor(label)
        present[row, : len(label)] = 1
    ids, present = ids.to(device), present.to(device)

    first = log_softmax(prompts.logits, -1)[:, ids[:, 0]]  # (batch, labels)
    if longest == 1:
        return first.argmax(-1)
    prompts.cache.batch_repeat_interleave(count)
    read = ids[:, :-1].repeat(batch, 1)  # (batch * labels, longest - 1)
    attention = torch.cat([prompts.attention.repeat_interleave(count, 0), present[:, :-1].repeat(batch, 1)], -1)
    start = prompts.attention.sum(-1).repeat_interleave(count).unsqueeze(-1)
    positions = start + torch.arange(longest - 1, device=device)
    logits = _forward(model, read, attention, positions, prompts.cache).logits.float()
    following = ids[:, 1:].repeat(batch, 1).unsqueeze(-1)
    rest = log_softmax(logits, -1).gather(-1, following).squeeze(-1) * present[:, 1:].repeat(batch, 1)
    return (first + rest.sum(-1).view(batch, count)).argmax(-1)


def _forward(
    model: Any, ids: Tensor, attention: Tensor, positions: Tensor, cache: Any, *, last_only: bool = False
) -> Any:
    arguments: dict[str, Any] = {"position_ids": positions}
    if last_only:
        arguments["logits_to_keep"] = 1
    accepted = inspect.signature(_decoder(model).forward).parameters
    return model(
        input_ids=ids,
        attention_mask=attention,
        past_key_values=cache,
        use_cache=True,
        **{name: value for name, value in arguments.items() if name in accepted},
    )


def _decoder(model: Any) -> Any:
    """The transformers model under an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model

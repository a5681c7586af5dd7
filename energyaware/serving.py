"""Answering requests: read the prompts once, then choose a label or generate, on one key-value cache.

Decoders and encoder-decoders are served alike. They differ in how a prompt is read (`prefill`) and in what the next
tokens see of it (`_read_on`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from energyaware.models import decoder_start_id

if TYPE_CHECKING:
    from torch import Tensor

LABEL_ROWS: Final = 64
"""Rows of the cache, prompts times labels, that are scored at once: the cache of a large model grows by gigabytes."""


@dataclass(frozen=True)
class Prefilled:
    """Prompts that were read. Nothing below changes it: any number of answers can start from it.

    Attributes:
        cache: keys and values of the prompts; of an encoder-decoder, those of its first decoder step.
        attention: (batch, length) int64 of the prompts, 0 at padding.
        logits: (batch, vocabulary) float32, of each answer's first token.
        encoded: (batch, length, width), what the encoder made of the prompts; None for decoders.
    """

    cache: Any
    attention: Tensor
    logits: Tensor
    encoded: Tensor | None = None


def prefill(model: Any, ids: Tensor, attention: Tensor) -> Prefilled:
    """Read prompts, up to the logits of the first new token.

    Args:
        model: a decoder, or an encoder-decoder: it encodes the prompts and takes the first step of its decoder.
        ids: (batch, length) int64, padded on the left.
        attention: (batch, length) int64, 0 at padding.
    """
    start_id = decoder_start_id(model)
    if start_id is not None:
        encoded = model.get_encoder()(input_ids=ids, attention_mask=attention).last_hidden_state
        start = ids.new_full((len(ids), 1), start_id)
        output = model(encoder_outputs=(encoded,), attention_mask=attention, decoder_input_ids=start, use_cache=True)
    else:
        encoded = None
        positions = (attention.cumsum(-1) - 1).clamp(min=0)
        output = _decode(model, ids, attention, positions, None, last_only=True)
    return Prefilled(output.past_key_values, attention, output.logits[:, -1].float(), encoded)


def generate(
    model: Any,
    prompts: Prefilled,
    max_new_tokens: int,
    stop_id: int | None,
    look: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Greedy decoding, (batch, new tokens) int64.

    Args:
        model: the model that read the prompts.
        prompts: what it read.
        max_new_tokens: upper bound, reached by every row where there is no stop token.
        stop_id: token after which a row is finished; what follows it in the row is meaningless. None decodes on, so
            that every configuration is measured over the same number of tokens.
        look: called with the logits of each token, (batch, vocabulary), which are 0 in rows that are finished.
    """
    import torch

    cache = _branch(prompts.cache)
    if look:
        look(prompts.logits)
    token = prompts.logits.argmax(-1, keepdim=True)
    tokens = [token]
    running = torch.ones_like(token, dtype=torch.bool)
    for step in range(1, max_new_tokens):
        if stop_id is not None:
            running &= token != stop_id
            if not bool(running.any()):
                break
        logits = _read_on(model, prompts, cache, token, step - 1)[:, -1]
        if look:
            look(logits.masked_fill(~running, 0.0))
        token = logits.argmax(-1, keepdim=True)
        tokens.append(token)
    return torch.cat(tokens, dim=-1)


def choose(model: Any, prompts: Prefilled, labels: Sequence[Sequence[int]]) -> Tensor:
    """Index of the most likely label of each prompt, (batch,) int64.

    A label's likelihood is that of all its tokens, end-of-text included, so that long and short ones compare.
    """
    return likelihoods(model, prompts, labels).argmax(-1)


def likelihoods(model: Any, prompts: Prefilled, labels: Sequence[Sequence[int]], rows: int = LABEL_ROWS) -> Tensor:
    """Log-likelihood of each label after each prompt, (batch, labels) float32, in nats.

    Args:
        model: the model that read the prompts.
        prompts: what it read.
        labels: token ids of each label.
        rows: prompts times labels that are scored at once; bounds memory and changes no result.
    """
    import torch

    at_once = max(1, rows // len(prompts.logits))
    starts = range(0, len(labels), at_once)
    return torch.cat([_scored_at_once(model, prompts, labels[start : start + at_once]) for start in starts], dim=-1)


def _scored_at_once(model: Any, prompts: Prefilled, labels: Sequence[Sequence[int]]) -> Tensor:
    import torch
    from torch.nn.functional import log_softmax

    count, longest = len(labels), max(len(label) for label in labels)
    device, batch = prompts.logits.device, len(prompts.logits)
    ids = torch.zeros((count, longest), dtype=torch.int64)
    padding = torch.ones((count, longest), dtype=torch.bool)
    for row, label in enumerate(labels):
        ids[row, : len(label)] = torch.tensor(label)
        padding[row, : len(label)] = False
    ids, padding = ids.to(device), padding.to(device)

    first = log_softmax(prompts.logits, -1)[:, ids[:, 0]]
    if longest == 1:
        return first
    cache = _branch(prompts.cache)
    cache.batch_repeat_interleave(count)
    # Padding at the end of a label needs no mask: nothing before it attends to it, and its own logits are left out.
    logits = _read_on(model, _repeated(prompts, count), cache, ids[:, :-1].repeat(batch, 1), 0).float()
    following = ids[:, 1:].repeat(batch, 1).unsqueeze(-1)
    rest = log_softmax(logits, -1).gather(-1, following).squeeze(-1)
    rest = rest.masked_fill(padding[:, 1:].repeat(batch, 1), 0.0)  # which may be -inf there
    return first + rest.sum(-1).view(batch, count)


def _repeated(prompts: Prefilled, count: int) -> Prefilled:
    """Each prompt `count` times, without its cache."""
    encoded = None if prompts.encoded is None else prompts.encoded.repeat_interleave(count, 0)
    return replace(prompts, cache=None, attention=prompts.attention.repeat_interleave(count, 0), encoded=encoded)


def _read_on(model: Any, prompts: Prefilled, cache: Any, ids: Tensor, answered: int) -> Tensor:
    """Logits (batch, tokens, vocabulary) after the answer tokens `ids`; `answered` others are in the cache already."""
    import torch

    if prompts.encoded is not None:
        output = model(
            encoder_outputs=(prompts.encoded,),
            attention_mask=prompts.attention,
            decoder_input_ids=ids,
            past_key_values=cache,
            use_cache=True,
        )
    else:
        news = torch.arange(answered + ids.shape[-1], device=ids.device)
        attention = torch.cat([prompts.attention, torch.ones_like(news).expand(len(ids), -1)], dim=-1)
        positions = prompts.attention.sum(-1, keepdim=True) + news[answered:]
        output = _decode(model, ids, attention, positions, cache)
    logits: Tensor = output.logits
    return logits


def _decode(
    model: Any, ids: Tensor, attention: Tensor, positions: Tensor, cache: Any, *, last_only: bool = False
) -> Any:
    """One forward of a decoder; position_ids and logits_to_keep where the family knows them."""
    arguments: dict[str, Any] = {"position_ids": positions}
    if last_only:
        arguments["logits_to_keep"] = 1
    accepted = inspect.signature(_unadapted(model).forward).parameters
    return model(
        input_ids=ids,
        attention_mask=attention,
        past_key_values=cache,
        use_cache=True,
        **{name: value for name, value in arguments.items() if name in accepted},
    )


def _branch(cache: Any) -> Any:
    """A cache that grows on its own from the same keys and values, which are shared and not copied.

    Dynamic caches grow by concatenation, so that what was read stays as it was. Cropping would not do: the layers of
    a sliding window forget what they would have to go back to.
    """
    branch = copy.copy(cache)
    if hasattr(cache, "self_attention_cache"):
        branch.self_attention_cache = _branch(cache.self_attention_cache)
        branch.cross_attention_cache = _branch(cache.cross_attention_cache)
        branch.is_updated = dict(cache.is_updated)
    else:
        branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _unadapted(model: Any) -> Any:
    """The transformers model under an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model

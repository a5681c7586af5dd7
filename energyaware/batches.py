"""From examples to tensors: tokens, batches whose content does not depend on the number of workers, padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.tasks.base import Example

SHAPE_STEP: Final = 16
"""Training batches are padded to multiples of this many tokens."""

IGNORED: Final = -100
"""Label of a token that the loss leaves out."""


@dataclass(frozen=True)
class Tokens:
    """A training example: prompt and target as one sequence of token ids, `prompt_length` of them prompt."""

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def targets(self) -> int:
        """Number of tokens that the loss is taken over."""
        return len(self.ids) - self.prompt_length


def tokenise(examples: Sequence[Example], tokenizer: Any, sequence_length: int) -> list[Tokens]:
    """Prompt, target and end-of-text; what is longer than `sequence_length` tokens loses the start of its prompt.

    An answer that is longer by itself loses its end too, end-of-text included, and one token of the prompt is left.
    """
    prompts = tokenizer([example.prompt for example in examples])["input_ids"]
    targets = tokenizer([example.target for example in examples], add_special_tokens=False)["input_ids"]
    tokens = []
    for prompt, target in zip(prompts, targets, strict=True):
        answer = [*target, tokenizer.eos_token_id][: sequence_length - 1]
        kept = prompt[max(0, len(prompt) + len(answer) - sequence_length) :]
        tokens.append(Tokens((*kept, *answer), len(kept)))
    return tokens


def tokenise_prompts(prompts: Sequence[str], tokenizer: Any, sequence_length: int) -> list[list[int]]:
    """Token ids of each prompt; what is longer than `sequence_length` loses its start."""
    if not prompts:  # which tokenizers do not take
        return []
    return [ids[-sequence_length:] for ids in tokenizer(list(prompts))["input_ids"]]


def epoch_batches(tokens: Sequence[Tokens], batch_size: int, seed: int, epoch: int) -> Iterator[list[Tokens]]:
    """Global batches of one epoch, in an order that follows from seed and epoch alone.

    The examples left over at the end are left out; the next epoch's order is another. A set smaller than a batch is
    repeated to fill one.
    """
    import numpy as np

    order = np.random.default_rng([seed, epoch]).permutation(len(tokens))
    steps = steps_per_epoch(len(tokens), batch_size)
    for indices in np.resize(order, (steps, batch_size)):
        yield [tokens[index] for index in indices]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Optimizer steps in one epoch."""
    return max(1, examples // batch_size)


def share_of_rank(batch: Sequence[Tokens], rank: int, world_size: int) -> list[Tokens]:
    """What one worker takes of a global batch: every world_size-th in order of length, so that all have equal work."""
    return sorted(batch, key=lambda tokens: len(tokens.ids))[rank::world_size]


def forwards_of_rank(tokens: Sequence[Tokens], rank: int, world_size: int, at_once: int) -> list[list[Tokens]]:
    """One worker's share in lists of up to `at_once`: as many for every worker, so that some may be empty."""
    mine = share_of_rank(tokens, rank, world_size)
    return [mine[start : start + at_once] for start in range(0, -(-len(tokens) // world_size), at_once)]


def pad_right(
    tokens: Sequence[Tokens], pad_id: int, at_most: int, start_id: int | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """For training: the arguments of a forward pass, and what each of its logits should predict.

    A decoder reads prompt and target as one sequence. An encoder-decoder reads the prompt with its encoder, and with
    its decoder the target, which `start_id` goes before: decoder_input_ids and decoder_attention_mask. The loss is
    over the same tokens in both.

    Args:
        tokens: the examples.
        pad_id: token of the padding, which the masks are 0 at.
        at_most: longest length that is padded to. Lengths are rounded up within it: kernels are compiled and cached
            per shape, on CPUs too.
        start_id: the token that starts an encoder-decoder's answers; None for decoders.

    Returns:
        Arguments by name, and the target of each logit, IGNORED where there is none: each (batch, length) int64.
    """
    if start_id is None:
        ids, attention = _padded([item.ids for item in tokens], pad_id, at_most)
        skipped = [max(0, item.prompt_length - 1) for item in tokens]
        answers = [(*[IGNORED] * skip, *item.ids[skip + 1 :]) for skip, item in zip(skipped, tokens, strict=True)]
        return {"input_ids": ids, "attention_mask": attention}, filled(answers, IGNORED, ids.shape[-1])
    prompt, attention = _padded([item.ids[: item.prompt_length] for item in tokens], pad_id, at_most)
    answers = [item.ids[item.prompt_length :] for item in tokens]
    read, read_mask = _padded([(start_id, *answer[:-1]) for answer in answers], pad_id, at_most)
    arguments = {
        "input_ids": prompt,
        "attention_mask": attention,
        "decoder_input_ids": read,
        "decoder_attention_mask": read_mask,
    }
    return arguments, filled(answers, IGNORED, read.shape[-1])


def _padded(sequences: Sequence[Sequence[int]], pad_id: int, at_most: int) -> tuple[Tensor, Tensor]:
    """Sequences and their mask, padded to the longest rounded up, while that stays within `at_most`."""
    longest = max(len(sequence) for sequence in sequences)
    length = max(min(-(-longest // SHAPE_STEP) * SHAPE_STEP, at_most), longest)
    return filled(sequences, pad_id, length), filled([[1] * len(sequence) for sequence in sequences], 0, length)


def filled(sequences: Sequence[Sequence[int]], filling: int, length: int) -> Tensor:
    """Sequences filled up on the right: (sequences, length) int64."""
    import torch

    return torch.tensor([[*sequence, *[filling] * (length - len(sequence))] for sequence in sequences])


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """For generation: input_ids and attention_mask, (batch, longest) int64, each prompt ending in the last column."""
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id)
    attention = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention[row, longest - len(prompt) :] = 1
    return ids, attention

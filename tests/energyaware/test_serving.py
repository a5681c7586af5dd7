"""Answers of every family beside those of transformers itself and of plain full forwards."""

import itertools
import math

import pytest
import torch

from energyaware.batches import (
    IGNORED,
    epoch_batches,
    forwards_of_rank,
    pad_left,
    pad_right,
    share_of_rank,
    tokenise,
    tokenise_prompts,
)
from energyaware.models import decoder_start_id, load_model, load_tokenizer
from energyaware.precision import PRECISIONS
from energyaware.serving import choose, generate, likelihoods, prefill
from energyaware.spec import ModelRef
from energyaware.tasks.base import Example
from tests.tiny import FAMILIES_TINY, VARIANTS_TINY, WORDS

PROMPTS = ["alarm on link 7", "power card", "fibre loss at the site, signal down and voltage up", "x"]
LABELS = ["fibre", "power card", "router port down", "no card at the site", "voltage up", "loss of signal"]


@pytest.fixture(scope="module", params=FAMILIES_TINY | VARIANTS_TINY)
def served(request, tmp_path_factory):
    folder = (FAMILIES_TINY | VARIANTS_TINY)[request.param](tmp_path_factory.mktemp("model"))
    ref = ModelRef("folder", "m", "x", str(folder))
    model = load_model(ref, PRECISIONS["fp32"], "cpu").eval()
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for parameter in model.parameters():  # an untrained model answers every prompt alike
            parameter.mul_(1 if parameter is embedding else 4)
    return model, load_tokenizer(ref)


def padded(tokenizer, prompts=PROMPTS):
    return pad_left(tokenise_prompts(prompts, tokenizer, 64), tokenizer.pad_token_id)


def by_transformers(model, tokenizer, ids, attention, tokens):
    """New tokens of transformers' own greedy decoding, which goes on after an end of text."""
    theirs = model.generate(
        input_ids=ids,
        attention_mask=attention,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    return theirs[:, 1 if model.config.is_encoder_decoder else ids.shape[1] :]


def by_full_forwards(model, prompt, answer):
    """Log-probabilities of each answer token, (tokens, vocabulary), from one unpadded forward without a cache."""
    start = decoder_start_id(model)
    if start is not None:
        return model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *answer[:-1]]])).logits[0]
    return model(torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :]


@torch.inference_mode()
def test_greedy_decoding_agrees_with_transformers(served):
    model, tokenizer = served
    ids, attention = padded(tokenizer)
    ours = generate(model, prefill(model, ids, attention), 12, None)
    assert torch.equal(ours, by_transformers(model, tokenizer, ids, attention, 12))
    assert len({tuple(row) for row in ours.tolist()}) == len(PROMPTS)
    assert any(len(set(row)) > 5 for row in ours.tolist()), "answers that repeat one token would hide a wrong cache"


@torch.inference_mode()
def test_greedy_decoding_agrees_with_full_forwards_without_padding_or_cache(served):
    model, tokenizer = served
    ours = generate(model, prefill(model, *padded(tokenizer)), 12, None).tolist()
    for row, prompt in zip(ours, tokenise_prompts(PROMPTS, tokenizer, 64), strict=True):
        assert by_full_forwards(model, prompt, row).argmax(-1).tolist() == row


@torch.inference_mode()
def test_padding_does_not_change_an_answer(served):
    model, tokenizer = served
    together = generate(model, prefill(model, *padded(tokenizer)), 8, None)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(model, prefill(model, *padded(tokenizer, [prompt])), 8, None)
        assert torch.equal(together[row], alone[0])


@torch.inference_mode()
def test_decoding_stops_when_every_row_has_ended(served):
    model, tokenizer = served
    free = generate(model, prefill(model, *padded(tokenizer, PROMPTS[:1])), 12, None)[0].tolist()
    stopped = generate(model, prefill(model, *padded(tokenizer, PROMPTS[:1])), 12, free[3])[0].tolist()
    assert stopped == free[: free.index(free[3]) + 1]


@torch.inference_mode()
def test_logits_are_looked_at_until_a_row_has_ended(served):
    model, tokenizer = served
    read = prefill(model, *padded(tokenizer))
    stop = generate(model, read, 12, None)[0, 3].item()
    looked = []
    rows = generate(model, read, 12, stop, looked.append).tolist()
    assert len(looked) == len(rows[0])
    for index, row in enumerate(rows):
        until = row.index(stop) + 1 if stop in row else len(row)
        assert [logits[index].argmax().item() for logits in looked[:until]] == row[:until]
        assert not any(logits[index].any() for logits in looked[until:])


def label_ids(tokenizer):
    return [[*ids, tokenizer.eos_token_id] for ids in tokenizer(LABELS, add_special_tokens=False)["input_ids"]]


@torch.inference_mode()
def test_the_chosen_label_is_the_most_likely_one_by_brute_force(served):
    model, tokenizer = served
    labels = label_ids(tokenizer)
    assert len({len(label) for label in labels}) > 2
    expected = torch.zeros(len(PROMPTS), len(labels))
    for row, prompt in enumerate(tokenise_prompts(PROMPTS, tokenizer, 64)):
        for column, label in enumerate(labels):
            logits = by_full_forwards(model, prompt, label).log_softmax(-1)
            expected[row, column] = logits.gather(-1, torch.tensor(label).unsqueeze(-1)).sum()
    read = prefill(model, *padded(tokenizer))
    assert torch.allclose(likelihoods(model, read, labels), expected, rtol=1e-4)
    assert torch.equal(choose(model, read, labels), expected.argmax(-1))


@torch.inference_mode()
def test_labels_scored_a_few_at_a_time_are_as_likely(served):
    model, tokenizer = served
    read, labels = prefill(model, *padded(tokenizer)), label_ids(tokenizer)
    together = likelihoods(model, read, labels)
    sizes = []
    watch = model.register_forward_hook(lambda module, arguments, output: sizes.append(len(output.logits)))
    for rows, expected in ((1, [4] * 6), (11, [8] * 3), (16, [16, 8]), (1000, [24])):
        assert torch.allclose(likelihoods(model, read, labels, rows), together, rtol=1e-4)
        assert sizes == expected
        sizes.clear()
    watch.remove()


@torch.inference_mode()
def test_any_number_of_answers_start_from_the_same_prompts(served):
    model, tokenizer = served
    read = prefill(model, *padded(tokenizer))
    first, label = generate(model, read, 12, None), choose(model, read, label_ids(tokenizer))
    assert torch.equal(generate(model, read, 12, None), first)
    assert torch.equal(choose(model, read, label_ids(tokenizer)), label)


@pytest.fixture(scope="module")
def tokens(served):
    _, tokenizer = served
    examples = [Example(" ".join(WORDS[: 1 + index % 9]), "cause") for index in range(50)]
    return tokenise(examples, tokenizer, 32)


def test_long_prompts_lose_their_start_and_targets_end(served):
    _, tokenizer = served
    (item,) = tokenise([Example("alarm " * 100 + "port", "fibre")], tokenizer, 16)
    assert len(item.ids) == 16
    assert tokenizer.decode(item.ids[: item.prompt_length], skip_special_tokens=True).endswith("alarm port")
    assert tokenizer.decode(item.ids[item.prompt_length :]) == "fibre<eos>"


def test_an_answer_longer_than_the_sequence_loses_its_end(served):
    _, tokenizer = served
    (item,) = tokenise([Example("alarm port", "fibre " * 100)], tokenizer, 16)
    assert (len(item.ids), item.targets) == (16, 15)
    assert tokenizer.eos_token_id not in item.ids[1:]


def test_no_prompts_are_no_tokens(served):
    _, tokenizer = served
    assert tokenise_prompts([], tokenizer, 64) == []


def test_every_epoch_has_its_own_order_and_the_same_one_again(tokens):
    first = list(epoch_batches(tokens, 8, seed=0, epoch=1))
    assert [len(batch) for batch in first] == [8] * 6
    assert first == list(epoch_batches(tokens, 8, seed=0, epoch=1))
    assert first != list(epoch_batches(tokens, 8, seed=0, epoch=2))
    assert first != list(epoch_batches(tokens, 8, seed=1, epoch=1))
    (small,) = epoch_batches(tokens[:3], 8, seed=0, epoch=1)
    assert len(small) == 8


def test_ranks_share_a_batch_without_loss(tokens):
    batch = list(tokens[:8])
    shares = [share_of_rank(batch, rank, 4) for rank in range(4)]
    assert sorted(item.ids for share in shares for item in share) == sorted(item.ids for item in batch)
    assert {len(share) for share in shares} == {2}


def test_every_rank_makes_as_many_forwards_and_together_they_read_each_example_once(tokens):
    for count, world_size in itertools.product([1, 2, 3, 4, 5, 8, 9, 13, 50], [1, 2, 3, 4]):
        ranks = [forwards_of_rank(tokens[:count], rank, world_size, 2) for rank in range(world_size)]
        assert {len(forwards) for forwards in ranks} == {math.ceil(math.ceil(count / world_size) / 2)}
        read = [item for forwards in ranks for batch in forwards for item in batch]
        assert sorted(item.ids for item in read) == sorted(item.ids for item in tokens[:count])
        assert all(len(batch) <= 2 for forwards in ranks for batch in forwards)


def test_only_targets_are_predicted_each_from_what_is_before_it(tokens):
    batch, targets = pad_right(tokens[:5], pad_id=0, at_most=32)
    assert {tensor.shape for tensor in (*batch.values(), targets)} == {(5, 16)}
    longest = max(len(item.ids) for item in tokens[:5])
    assert pad_right(tokens[:5], pad_id=0, at_most=longest)[0]["input_ids"].shape == (5, longest)
    assert batch["attention_mask"].sum(-1).tolist() == [len(item.ids) for item in tokens[:5]]
    for row, item in enumerate(tokens[:5]):
        places = (targets[row] != IGNORED).nonzero().flatten().tolist()
        assert places == list(range(item.prompt_length - 1, len(item.ids) - 1))
        assert tuple(targets[row, places].tolist()) == item.ids[item.prompt_length :]
        assert tuple(batch["input_ids"][row, : len(item.ids)].tolist()) == item.ids


def test_encoders_read_prompts_and_decoders_targets(tokens):
    batch, targets = pad_right(tokens[:5], pad_id=0, at_most=32, start_id=7)
    assert batch["decoder_input_ids"].shape == batch["decoder_attention_mask"].shape == targets.shape
    for row, item in enumerate(tokens[:5]):
        prompt, answer = item.ids[: item.prompt_length], item.ids[item.prompt_length :]
        assert tuple(batch["input_ids"][row, batch["attention_mask"][row] == 1].tolist()) == prompt
        read = batch["decoder_input_ids"][row, batch["decoder_attention_mask"][row] == 1]
        assert tuple(read.tolist()) == (7, *answer[:-1])
        assert tuple(targets[row, targets[row] != IGNORED].tolist()) == answer

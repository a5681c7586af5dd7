import pytest
import torch

from energyaware.batches import epoch_batches, pad_left, pad_right, share_of_rank, tokenise, tokenise_prompts
from energyaware.models import load_model, load_tokenizer
from energyaware.precision import PRECISIONS
from energyaware.serving import choose, generate, prefill
from energyaware.spec import ModelRef
from energyaware.tasks.base import Example
from tests.tiny import WORDS, save_gpt2, save_llama

PROMPTS = ["alarm on link 7", "power card", "fibre loss at the site, signal down and voltage up", "x"]
LABELS = ["fibre", "power card", "router port down"]


@pytest.fixture(scope="module", params=[save_llama, save_gpt2], ids=["llama", "gpt2"])
def served(request, tmp_path_factory):
    folder = request.param(tmp_path_factory.mktemp("model"))
    ref = ModelRef("folder", "m", "x", str(folder))
    model = load_model(ref, PRECISIONS["fp32"], "cpu").eval()
    with torch.no_grad():
        for parameter in model.parameters():  # an untrained model answers every prompt alike
            parameter.mul_(3)
    return model, load_tokenizer(ref)


def padded(tokenizer, prompts=PROMPTS):
    return pad_left(tokenise_prompts(prompts, tokenizer, 64), tokenizer.pad_token_id)


@torch.inference_mode()
def test_greedy_decoding_agrees_with_transformers(served):
    model, tokenizer = served
    ids, attention = padded(tokenizer)
    ours = generate(model, prefill(model, ids, attention), 12, None)
    theirs = model.generate(
        input_ids=ids,
        attention_mask=attention,
        max_new_tokens=12,
        min_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    assert torch.equal(ours, theirs[:, ids.shape[1] :])
    assert len({tuple(row) for row in ours.tolist()}) > 1


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
def test_the_chosen_label_is_the_most_likely_one_by_brute_force(served):
    model, tokenizer = served
    labels = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(LABELS)["input_ids"]]
    assert len({len(label) for label in labels}) > 1
    chosen = choose(model, prefill(model, *padded(tokenizer)), labels).tolist()
    for prompt, index in zip(PROMPTS, chosen, strict=True):
        start = tokenise_prompts([prompt], tokenizer, 64)[0]
        scores = []
        for label in labels:
            logits = model(torch.tensor([[*start, *label]])).logits[0].log_softmax(-1)
            scores.append(sum(float(logits[len(start) + i - 1, token]) for i, token in enumerate(label)))
        assert index == max(range(len(scores)), key=scores.__getitem__)


@torch.inference_mode()
def test_decoding_again_from_the_same_cache_gives_the_same(served):
    model, tokenizer = served
    read = prefill(model, *padded(tokenizer))
    first = generate(model, read, 6, None)
    read.cache.crop(-5)
    assert torch.equal(generate(model, read, 6, None), first)


@pytest.fixture(scope="module")
def tokens(served):
    _, tokenizer = served
    examples = [Example(" ".join(WORDS[: 1 + index % 9]), "cause") for index in range(50)]
    return tokenise(examples, tokenizer, 32)


def test_long_prompts_lose_their_start_and_targets_end(served):
    _, tokenizer = served
    (item,) = tokenise([Example("alarm " * 100 + "port", "fibre")], tokenizer, 16)
    assert len(item.ids) == 16
    assert tokenizer.decode(item.ids).endswith("portfibre<eos>")
    assert tokenizer.decode(item.ids[item.prompt_length :]) == "fibre<eos>"


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


def test_only_targets_are_labels(tokens):
    ids, attention, labels = pad_right(tokens[:5], pad_id=0, at_most=32)
    assert ids.shape == attention.shape == labels.shape == (5, 16)
    longest = max(len(item.ids) for item in tokens[:5])
    assert pad_right(tokens[:5], pad_id=0, at_most=longest)[0].shape == (5, longest)
    assert (labels != -100).sum(-1).tolist() == [item.targets for item in tokens[:5]]
    assert attention.sum(-1).tolist() == [len(item.ids) for item in tokens[:5]]

"""Which examples a calibrated pruner looks at, as tokens."""

import json

import pytest
import torch

from energyaware.errors import InputError
from energyaware.models import load_model, load_tokenizer
from energyaware.precision import PRECISIONS
from energyaware.pruning.calibration import NO_CALIBRATION, calibration_batches, load_texts, text_ref
from energyaware.spec import Calibration, ModelRef
from energyaware.tasks.base import Example
from tests.tiny import save_llama, save_t5

EXAMPLES = [Example(f"alarm {n} on port {n * 7} " + "link " * (n % 5), f"cause {n}") for n in range(30)]
TEXTS = [f"text {n} " + " ".join(f"word{n * k}" for k in range(n % 7 * 20)) for n in range(20)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return loaded(save_llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return loaded(save_t5(tmp_path_factory.mktemp("t5")))


def loaded(folder):
    ref = ModelRef("folder", folder.name, "x", str(folder))
    return load_model(ref, PRECISIONS["fp32"], "cpu"), load_tokenizer(ref)


def drawn(on, examples=12, data=None, seed=1, sequence_length=64):
    model, tokenizer = on
    asked = Calibration(examples, data)
    return calibration_batches(asked, EXAMPLES, tokenizer, model, sequence_length=sequence_length, seed=seed)


def sequences(batches, side=""):
    """Token ids without padding, after checking that padding is on the right."""
    rows = []
    for batch in batches:
        ids, mask = batch[f"{side}input_ids"], batch[f"{side}attention_mask"]
        assert ids.dtype == mask.dtype == torch.int64
        assert (mask.diff(dim=1) <= 0).all()
        rows += [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)]
    return rows


def save_texts(path, texts=TEXTS, column="text"):
    path.write_text("\n".join(json.dumps({column: text, "other": "x"}) for text in texts) + "\n")
    return path


def test_a_decoder_reads_prompt_answer_and_end(llama):
    _, tokenizer = llama
    result = drawn(llama)
    all_of_them = {
        (*tokenizer(item.prompt)["input_ids"], *tokenizer(item.target)["input_ids"], tokenizer.eos_token_id)
        for item in EXAMPLES
    }
    rows = sequences(result.batches)
    assert {tuple(row) for row in rows} <= all_of_them
    assert len({tuple(row) for row in rows}) == 12
    assert set(result.batches[0]) == {"input_ids", "attention_mask"}
    assert result.columns == {
        "calibration_examples": 12,
        "calibration_tokens": sum(map(len, rows)),
        "calibration_seed": 1,
        "calibration_hash": result.columns["calibration_hash"],
    }


def test_seed_and_examples_determine_the_batches_and_their_hash(llama):
    first, same, other = drawn(llama), drawn(llama), drawn(llama, seed=2)
    for one, two in zip(first.batches, same.batches, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert first.columns == same.columns
    assert first.columns["calibration_hash"] != other.columns["calibration_hash"]
    assert sorted(sequences(first.batches)) != sorted(sequences(other.batches))


def test_all_there_are_where_more_are_asked_for(llama):
    assert drawn(llama, examples=100).columns["calibration_examples"] == len(EXAMPLES)


def test_longer_examples_lose_the_start_of_their_prompt(llama):
    rows = sequences(drawn(llama, sequence_length=10).batches)
    whole = sequences(drawn(llama).batches)
    assert all(len(row) <= 10 for row in rows)
    assert all(any(full[-len(row) :] == row for full in whole) for row in rows)


def test_an_encoder_decoder_reads_the_prompt_and_answers_from_its_start_token(t5):
    model, tokenizer = t5
    result = drawn(t5)
    expected = {
        (
            tuple(tokenizer(item.prompt)["input_ids"]),
            (start, *tokenizer(item.target, add_special_tokens=False)["input_ids"]),
        )
        for item in EXAMPLES
        for start in [model.config.decoder_start_token_id]
    }
    read, answered = sequences(result.batches), sequences(result.batches, "decoder_")
    assert {(tuple(a), tuple(b)) for a, b in zip(read, answered, strict=True)} <= expected
    assert result.columns["calibration_tokens"] == sum(map(len, read + answered))
    for batch in result.batches:
        assert batch["input_ids"].shape[1] != batch["decoder_input_ids"].shape[1]
        model(**batch)


def test_own_texts_are_read_as_they_are_and_long_ones_from_a_drawn_place(llama, tmp_path):
    _, tokenizer = llama
    ref = text_ref(save_texts(tmp_path / "own.jsonl"))
    whole = [tokenizer(text.strip())["input_ids"] for text in TEXTS]
    rows = sequences(drawn(llama, 20, ref, sequence_length=30).batches)
    assert len(rows) == 20
    places = set()
    for row in rows:
        source = next(ids for ids in whole if any(ids[at : at + len(row)] == row for at in range(len(ids))))
        assert len(row) == min(30, len(source))
        places.add(next(at for at in range(len(source)) if source[at : at + len(row)] == row))
    assert len(places) > 3


def test_an_encoder_decoder_reads_half_of_a_text_and_answers_the_other(t5, tmp_path):
    model, tokenizer = t5
    result = drawn(t5, 20, text_ref(save_texts(tmp_path / "own.jsonl")), sequence_length=1000)
    whole = {tuple(tokenizer(text.strip())["input_ids"]) for text in TEXTS}
    sides = zip(sequences(result.batches), sequences(result.batches, "decoder_"), strict=True)
    for read, answered in sides:
        assert answered[0] == model.config.decoder_start_token_id
        assert any(ids[:-1] == (*read, *answered[1:]) for ids in whole)
        assert 0 <= len(read) - len(answered) <= 1
    assert all(batch["input_ids"].shape[1] != batch["decoder_input_ids"].shape[1] for batch in result.batches)


def test_own_texts_are_pinned_by_their_content(tmp_path):
    path = save_texts(tmp_path / "own.jsonl", column="body")
    ref = text_ref(path, "body")
    assert load_texts(ref) == [text.strip() for text in TEXTS]
    assert text_ref(path, "body") == ref
    save_texts(path, TEXTS[1:], column="body")
    assert text_ref(path, "body").revision != ref.revision
    with pytest.raises(InputError, match=r"own\.jsonl: calibration\.path: the content has changed"):
        load_texts(ref)


def test_texts_that_cannot_be_read_name_file_and_field(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: calibration\.path: no such file"):
        text_ref(tmp_path / "none.jsonl")
    (tmp_path / "texts.doc").write_text("x")
    with pytest.raises(InputError, match=r"calibration\.path: \.doc is not known; allowed are \.csv"):
        text_ref(tmp_path / "texts.doc")
    with pytest.raises(InputError, match=r"calibration\.path: is a folder"):
        text_ref(tmp_path)
    path = save_texts(tmp_path / "own.jsonl")
    with pytest.raises(InputError, match=r"calibration\.column: no column 'body'; columns are: text, other"):
        load_texts(text_ref(path, "body"))
    save_texts(path, ["a", " "])
    with pytest.raises(InputError, match=r"calibration\.column: column 'text' is empty in row 2"):
        load_texts(text_ref(path))
    path.write_text("")
    with pytest.raises(InputError, match=r"calibration\.(path|column): "):
        load_texts(text_ref(path))


def test_no_calibration_says_nothing():
    assert not NO_CALIBRATION.batches
    assert NO_CALIBRATION.columns == {}

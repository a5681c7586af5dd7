import json
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest

import energyaware
from energyaware.builtin_model import END, RECIPE, builtin_ref, documents, ensure_builtin_model
from energyaware.errors import InputError
from energyaware.node_cache import cache_folder
from energyaware.tasks import TASKS
from energyaware.tasks.causes import CAUSES
from energyaware.tasks.tickets import LABELS, tickets

ROOT = Path(energyaware.__file__).parents[1]
TINY = replace(RECIPE, hidden_size=64, intermediate_size=64, layers=1, heads=2, key_value_heads=1, documents=48)


def load(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def make(cache):
    ensure_builtin_model(cache, recipe=TINY)


def by_likelihood(model, tokenizer, records):
    """The label with the highest sum of log-probabilities, its end included, given the prompt."""
    import torch

    labels = [[*tokenizer(label)["input_ids"], tokenizer.eos_token_id] for label in LABELS]
    rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in labels], batch_first=True, padding_value=-1)
    answers = []
    for record in records:
        prompt = tokenizer(TASKS["root_cause"].example(record).prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            read = model(input_ids=prompt, use_cache=True)
            read.past_key_values.batch_repeat_interleave(len(labels))
            rest = model(input_ids=rows[:, :-1].clamp(min=0), past_key_values=read.past_key_values).logits
        logits = torch.cat([read.logits[:, -1:].expand(len(labels), -1, -1), rest], dim=1)
        each = logits.log_softmax(-1).gather(-1, rows.clamp(min=0)[..., None])[..., 0]
        answers.append(LABELS[(each * (rows >= 0)).sum(-1).argmax()])
    return answers


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return ensure_builtin_model(tmp_path_factory.mktemp("cache"), recipe=TINY)


@pytest.fixture(scope="module")
def real():
    """The built-in model itself, from the cache that everything else uses; made if nothing has needed it yet."""
    return ensure_builtin_model()


def test_revision_follows_every_part_of_the_recipe():
    changed = [replace(TINY, **{part.name: getattr(TINY, part.name) * 2}) for part in fields(TINY)]
    refs = [builtin_ref(recipe) for recipe in (TINY, *changed)]
    assert len({ref.revision for ref in refs}) == len(refs)
    assert {(ref.kind, ref.name, ref.location) for ref in refs} == {("builtin", "builtin", "")}


def test_revision_is_the_same_in_another_process():
    code = "from energyaware.builtin_model import builtin_ref; print(builtin_ref().revision)"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    assert other.stdout.strip() == builtin_ref().revision


def test_documents_hold_no_relation_between_symptoms_and_labels():
    """Chi-square of label x symptoms, symptoms told by their evidence: independent draws give about (k - 1)^2."""
    texts = [text for text in documents(replace(RECIPE, documents=12_000)) if "Root cause:" in text]
    openings = {label: [e.split("{")[0].casefold() for e in c.evidence.train] for label, c in CAUSES.items()}

    def symptoms(text):
        ticket = text.casefold()
        return Counter({c: sum(len(o) > 8 and o in ticket for o in os_) for c, os_ in openings.items()}).most_common(1)[
            0
        ]

    pairs = [(symptoms(text), text.rpartition("\n")[2]) for text in texts]
    table = Counter((cause, label) for (cause, hits), label in pairs if hits)
    total, k = table.total(), len(LABELS)
    assert total > 0.8 * len(texts) > 1500
    causes = {c: sum(table[c, label] for label in LABELS) for c in LABELS}
    labels = {label: sum(table[c, label] for c in LABELS) for label in LABELS}
    expected = {(c, label): causes[c] * labels[label] / total for c in LABELS for label in LABELS}
    chi_square = sum((table[pair] - e) ** 2 / e for pair, e in expected.items())
    freedom = (k - 1) ** 2
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


def test_documents_are_in_the_phrasing_of_the_training_split_alone():
    known = {text.split("\n")[0] for text in documents(replace(RECIPE, documents=300))}
    for split in ("validation", "test"):
        assert not known & {f"Ticket: {record['ticket']}" for record in tickets(split)}
    assert all(phrase not in text for text in known for phrase in ("The test shows", "Poll of", "outage in"))


def test_folder_is_complete_and_says_that_it_is_synthetic(tiny):
    assert tiny.name == f"builtin-{builtin_ref(TINY).revision}"
    there = {file.name for file in tiny.iterdir()}
    assert there >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert "synthetic" in (tiny / "README.md").read_text()
    assert json.loads((tiny / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_nothing_unfinished_is_left_beside_it(tiny):
    assert {path.name for path in tiny.parent.iterdir()} == {tiny.name, f".{tiny.name}.lock"}


def test_it_is_made_once(tiny):
    before = (tiny / "model.safetensors").stat().st_mtime_ns
    said = []
    assert ensure_builtin_model(tiny.parents[1], said.append, recipe=TINY) == tiny
    assert said == []
    assert (tiny / "model.safetensors").stat().st_mtime_ns == before


def test_same_recipe_same_weights_whatever_the_state_of_the_callers_generator(tiny, tmp_path):
    import torch

    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    said = []
    again = weights(ensure_builtin_model(tmp_path, said.append, recipe=TINY))
    assert torch.equal(torch.random.get_rng_state(), state)
    first = weights(tiny)
    assert first.keys() == again.keys()
    assert all(torch.allclose(first[name], again[name], atol=1e-6) for name in first)
    assert said[-1].startswith("built-in base model: step 6 of 6")


def test_processes_that_ask_at_once_make_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=make, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    name = f"builtin-{builtin_ref(TINY).revision}"
    assert {path.name for path in (tmp_path / "models").iterdir()} == {name, f".{name}.lock"}


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="ENERGYAWARE_CACHE names another folder"):
        ensure_builtin_model(tmp_path / "file", recipe=TINY)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"ENERGYAWARE_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/energyaware"),
        ({"HOME": "/h"}, "/h/.cache/energyaware"),
    ],
)
def test_where_the_cache_is(env, expected):
    code = "from energyaware.node_cache import cache_folder; print(cache_folder())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    assert done.stdout.strip() == expected


def test_tokenizer_writes_any_text_and_gives_it_back(tiny):
    _, tokenizer = load(tiny)
    text = "Ünknown wörds, 光ファイバー, ge-1/2: -40 dBm\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.padding_side == "left"
    assert (tokenizer.eos_token, tokenizer.pad_token_id) == (END, 0)
    padded = tokenizer(["a b c d", "a"], padding=True)
    assert padded["input_ids"][1][0] == tokenizer.pad_token_id
    assert set(padded) == {"input_ids", "attention_mask"}


def test_real_model_is_a_small_llama_whose_matrices_suit_pruning_and_quantisation(real):
    assert real.parents[1] == cache_folder()
    model, tokenizer = load(real)
    assert 2e6 < sum(parameter.numel() for parameter in model.parameters()) < 5e6
    assert type(model).__name__ == "LlamaForCausalLM"
    assert len(tokenizer) == model.config.vocab_size
    assert all(size % 64 == 0 for p in model.parameters() for size in p.shape)


def test_real_model_is_at_chance_before_fine_tuning(real):
    records = tickets("test")
    answers = by_likelihood(*load(real), records)
    right = sum(answer == record["root_cause"] for answer, record in zip(answers, records, strict=True))
    chance = 1 / len(LABELS)
    noise = (chance * (1 - chance) / len(records)) ** 0.5
    assert abs(right / len(records) - chance) < 4 * noise


def test_real_model_has_learned_the_language_of_tickets(real):
    import torch

    model, tokenizer = load(real)
    losses = []
    for text in documents(replace(RECIPE, seed=99, documents=16)):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    assert sum(losses) / len(losses) < 1.2, "knowing nothing is ln(1024) = 6.9 nats a token"


def test_tickets_are_short_for_it(real):
    _, tokenizer = load(real)
    lengths = [len(tokenizer(record["ticket"])["input_ids"]) for record in tickets("test")]
    assert min(lengths) >= 50
    assert max(lengths) <= 110
    assert 60 <= sum(lengths) / len(lengths) <= 90

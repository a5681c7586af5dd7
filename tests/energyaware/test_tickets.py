import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from energyaware.tasks import tickets
from energyaware.tasks.causes import CAUSES
from energyaware.tasks.phrases import NODES, PORTS, SITES
from energyaware.tasks.tickets import LABELS, RECIPE

SPLITS = ("train", "validation", "test")


def every_ticket():
    return [record for split in SPLITS for record in tickets.tickets(split)]


def without_slots(sentence):
    """The phrasing alone: names, symptoms and numbers that fill a slot become #."""
    herrings = [herring for cause in CAUSES.values() for herring in cause.herrings]
    names = sorted([*SITES, *NODES, *PORTS, *herrings], key=len, reverse=True)
    text = re.sub("|".join(map(re.escape, names)), "#", sentence, flags=re.IGNORECASE)
    text = re.sub(r"(?<=: )[a-z0-9 ]+, [a-z0-9 ]+, [a-z0-9 ]+$|(?<=include )[a-z0-9 ,]+$", "#", text)
    text = re.sub(r"(?<=mentions )[a-z0-9 ,]+$|(?<=includes )[a-z0-9 ,]+$", "#", text)
    return re.sub(r"\d+", "#", text).casefold().strip(" .")


def phrasings(split):
    texts = [record["ticket"] for record in tickets.tickets(split, count=1200, seed=3)]
    return {without_slots(sentence) for text in texts for sentence in re.split(r"\.(?:\s|$)", text) if sentence}


def test_sizes_fields_and_ids():
    for split in SPLITS:
        records = tickets.tickets(split)
        assert len(records) == RECIPE["sizes"][split]
        assert all(set(record) == {"id", "ticket", "root_cause", "response"} for record in records)
        assert len({record["id"] for record in records}) == len(records)
    assert tickets.SYNTHETIC is True


def test_at_least_twelve_causes_and_balanced_classes():
    assert len(LABELS) >= 12
    for split in SPLITS:
        counts = Counter(record["root_cause"] for record in tickets.tickets(split, count=250))
        assert set(counts) == set(LABELS)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_ticket_says_its_label():
    named = [(label, r["ticket"]) for r in every_ticket() for label in LABELS if label in r["ticket"].casefold()]
    assert named == []


def test_templates_of_the_splits_are_disjoint():
    for one, other in combinations(SPLITS, 2):
        assert not set(tickets.templates(one)) & set(tickets.templates(other))


def test_no_sentence_without_its_slots_is_in_two_splits():
    found = {split: phrasings(split) for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not found[one] & found[other]
    templates = {split: len(set(tickets.templates(split))) for split in SPLITS}
    for split in SPLITS:
        assert len(found[split]) == templates[split], "stripping the slots should give the templates back"


def test_no_ticket_is_in_two_splits():
    texts = [record["ticket"] for record in every_ticket()]
    assert len(set(texts)) == len(texts)


def test_evidence_of_a_cause_shares_its_words_between_splits():
    ignored = set("the a of and in on at to is no not was for from with then since after its left".split())

    def words(label, split):
        text = " ".join([*CAUSES[label].evidence.of(split)])
        return set(re.findall(r"[a-z0-9]{2,}", re.sub(r"{\w+}", "", text.casefold()))) - ignored

    for label in LABELS:
        known = words(label, "train") | {word for term in CAUSES[label].terms for word in term.split()}
        for split in ("validation", "test"):
            for sentence in CAUSES[label].evidence.of(split):
                said = set(re.findall(r"[a-z0-9]{2,}", re.sub(r"{\w+}", "", sentence.casefold()))) - ignored
                assert len(said & known) / len(said) >= 0.5, sentence


def test_some_tickets_have_a_red_herring_and_it_is_of_another_cause():
    records = tickets.tickets("train", count=1200)
    herrings = {herring: label for label, cause in CAUSES.items() for herring in cause.herrings}

    def shown(record):
        text = record["ticket"].casefold()
        frames = ("planned test", "night shift", "unrelated", "no sign of", "last week", "ruled out")
        return [label for herring, label in herrings.items() for frame in frames if herring in text and frame in text]

    with_herring = [record for record in records if shown(record)]
    assert 0.4 < len(with_herring) / len(records) < 0.6
    assert all(record["root_cause"] not in shown(record) for record in with_herring if len(set(shown(record))) == 1)


def test_response_takes_up_the_details_of_the_ticket():
    for record in every_ticket():
        site = next(name for name in SITES if name in record["response"])
        assert site in record["ticket"]
        assert all(port in record["ticket"] for port in PORTS if port in record["response"])
        when = {"P1": "at once", "P2": "today", "P3": "in the next maintenance window"}[record["ticket"][:2]]
        assert record["response"].endswith(f"{when}.")
    answers = {record["root_cause"]: without_slots(record["response"]) for record in every_ticket()}
    assert len(set(answers.values())) == len(LABELS)


@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_same_tickets_and_another_seed_others(split):
    assert tickets.tickets(split, 40, seed=1) == tickets.tickets(split, 40, seed=1)
    assert tickets.tickets(split, 40, seed=1) != tickets.tickets(split, 40, seed=2)


def test_revision_is_the_same_in_another_process():
    code = "from energyaware.tasks import tickets; print(tickets.revision())"
    root = str(Path(tickets.__file__).parents[2])
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "99", "PYTHONPATH": root},
    )
    assert other.stdout.strip() == tickets.revision()


def test_answered_as_another_cause_keeps_the_symptoms():
    right = tickets.ticket("clock loss", "train", Random(5))
    wrong = tickets.ticket("clock loss", "train", Random(5), answered_as="fibre cut")
    assert wrong["ticket"] == right["ticket"]
    assert (wrong["root_cause"], wrong["response"][:12]) == ("fibre cut", "Fibre broken")

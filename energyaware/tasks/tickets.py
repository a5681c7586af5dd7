"""Built-in fault tickets of communication networks: SYNTHETIC, made by this module from a seed.

A ticket opens with priority, site, equipment and port; then come, in any order, two pieces of evidence for its root
cause, a line of noise, and often a red herring: a symptom typical of another cause that the ticket explains away.
The response is the runbook's answer: what is wrong and what to do, with the site, the port and how soon.
"""

import json
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any, Final, Literal

from energyaware.spec import short_hash
from energyaware.tasks.base import Record
from energyaware.tasks.causes import CAUSES
from energyaware.tasks.phrases import HERRINGS, LOGS, NODES, NOISE, OPENINGS, PORTS, SITES, WHEN

SYNTHETIC: Final = True
"""No ticket of this module was ever written by a network operator."""

Split = Literal["train", "validation", "test"]

RECIPE: Final[dict[str, Any]] = {
    "version": 1,
    "seed": 20_250,
    "sizes": {"train": 576, "validation": 96, "test": 192},
    "herring_share": 0.5,
}
LABELS: Final = tuple(CAUSES)


def tickets(split: Split, count: int | None = None, seed: int | None = None) -> list[Record]:
    """The tickets of one split: every root cause equally often, to within one ticket, in random order.

    Args:
        split: whose phrasing is used; the three share no sentence.
        count: how many tickets; the recipe's size where None.
        seed: the recipe's where None.

    Returns:
        Records with the fields id, ticket, root_cause and response.
    """
    count = RECIPE["sizes"][split] if count is None else count
    random = Random(f"{RECIPE['seed'] if seed is None else seed} {split}")  # noqa: S311
    labels = [LABELS[number % len(LABELS)] for number in range(count)]
    random.shuffle(labels)
    return [{"id": f"{split}-{number:05d}", **ticket(label, split, random)} for number, label in enumerate(labels)]


def ticket(label: str, split: Split, random: Random, answered_as: str | None = None) -> dict[str, str]:
    """One ticket with the symptoms of the root cause `label`, in the phrasing of `split`.

    `answered_as`, where given, is the cause that the record's label and response are about instead.
    """
    answered_as = answered_as or label
    slots = _slots(random)
    sentences = [*random.sample(CAUSES[label].evidence.of(split), 2), random.choice(NOISE.of(split))]
    slots["terms"] = log_terms(label, random)
    sentences.append(random.choice(LOGS.of(split)))
    if random.random() < RECIPE["herring_share"]:
        slots["herring"] = herring(random, other_than=label)
        sentences.append(random.choice(HERRINGS.of(split)))
    random.shuffle(sentences)
    sentences.insert(0, random.choice(OPENINGS.of(split)))
    return {
        "ticket": " ".join(_sentence(template, slots | _numbers(random)) for template in sentences),
        "root_cause": answered_as,
        "response": _sentence(CAUSES[answered_as].answer, slots),
    }


def log_terms(label: str, random: Random) -> str:
    """Three words of a log in any order: two belong to the cause, one to some other cause."""
    stray = random.choice([other for other in LABELS if other != label])
    terms = [*random.sample(CAUSES[label].terms, 2), random.choice(CAUSES[stray].terms)]
    return ", ".join(random.sample(terms, 3))


def herring(random: Random, other_than: str) -> str:
    """A symptom that is typical of some other cause."""
    return random.choice(CAUSES[random.choice([label for label in LABELS if label != other_than])].herrings)


def templates(split: Split) -> Iterator[str]:
    """Every sentence template that tickets of this split are made of."""
    for phrases in (OPENINGS, NOISE, LOGS, HERRINGS, *(cause.evidence for cause in CAUSES.values())):
        yield from phrases.of(split)


@cache
def revision() -> str:
    """What pins these tickets: a short hash of the recipe and of every ticket made by it."""
    made = [tickets("train"), tickets("validation"), tickets("test")]
    return short_hash(json.dumps([RECIPE, made], sort_keys=True, separators=(",", ":")))


def _slots(random: Random) -> dict[str, str]:
    site, peer = random.sample(SITES, 2)
    priority = random.choice(list(WHEN))
    return {
        "priority": priority,
        "when": WHEN[priority],
        "site": site,
        "peer": peer,
        "node": random.choice(NODES),
        "port": random.choice(PORTS),
    }


def _numbers(random: Random) -> dict[str, str]:
    ranges = {"n": (11, 59), "km": (2, 19), "minutes": (2, 9), "hours": (2, 9), "percent": (91, 99)}
    return {slot: str(random.randint(low, high)) for slot, (low, high) in ranges.items()}


def _sentence(template: str, slots: dict[str, str]) -> str:
    text = template.format(**slots)
    return text[0].upper() + text[1:]

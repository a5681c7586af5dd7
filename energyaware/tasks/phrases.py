"""The phrases that synthetic fault tickets of every cause have in common: openings, noise, red herrings, log lines.

Every sentence of a ticket belongs to one split, so that no phrasing of the test split was seen in training.

Slots: {priority} {site} {peer} {node} {port} {n} {km} {minutes} {hours} {percent} {herring} {terms}.
"""

from dataclasses import dataclass
from typing import Final

SITES: Final = (
    "Aldwick", "Bramley", "Corfe", "Dunmore", "Elmstead", "Farley", "Gorsebrook", "Hexham", "Ilminster", "Jarrow",
    "Kelso", "Larkhill", "Malden", "Norwick", "Oakhanger", "Penrith",
)  # fmt: skip
NODES: Final = (
    "router", "switch", "aggregation node", "base station", "access node", "core node", "gateway", "cabinet",
)  # fmt: skip
PORTS: Final = tuple(f"{kind}-{slot}/{port}" for kind in ("ge", "xe", "et") for slot in range(4) for port in range(8))
WHEN: Final = {"P1": "at once", "P2": "today", "P3": "in the next maintenance window"}


@dataclass(frozen=True)
class Phrases:
    """The sentences of one split."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, split: str) -> tuple[str, ...]:
        """The sentences of the split "train", "validation" or "test"."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


OPENINGS: Final = Phrases(
    train=(
        "{priority} {site} {node} {port}: service down for {n} users.",
        "{priority} ticket from {site}: {node} degraded, alarm on {port}.",
        "{priority} {site}: customers complain, {node} {port} affected.",
        "{priority} alarm at {site} on {port} of the {node}.",
        "{priority} {site}, {node}: outage reported on {port}.",
        "{priority} {node} in {site} shows faults on {port}.",
    ),
    validation=(
        "{priority} complaint about {port}, {node} {site}.",
        "{priority} {site} reports degraded service on {node} {port}.",
    ),
    test=(
        "{priority} outage in {site}: {node}, {port}.",
        "{priority} {node} {port} at {site} affected, users complain.",
        "{priority} fault reported by {site} for {port} on {node}.",
    ),
)

NOISE: Final = Phrases(
    train=(
        "Backup job finished after {minutes} minutes.",
        "Fan speed is normal.",
        "User {n} logged in and logged out.",
        "Log archive rotated as usual.",
        "Door contact at {peer} opened and closed.",
        "Last inspection was {n} days ago.",
        "Inventory poll took {minutes} seconds.",
        "Temperature is {n} degrees, normal.",
    ),
    validation=("Archive backup took {minutes} minutes as usual.", "Door at {peer} is closed."),
    test=(
        "Fan and temperature are normal.",
        "Inspection finished {n} days ago.",
        "Poll of {peer} finished as usual.",
        "Archive job rotated {n} logs.",
    ),
)

HERRINGS: Final = Phrases(
    train=(
        "{herring} was a planned test, cleared.",
        "{herring} ruled out by the night shift.",
        "Earlier {herring} at {peer} is unrelated.",
        "No sign of {herring}.",
        "{herring} last week, already cleared.",
        "First suspected {herring}, then ruled out.",
    ),
    validation=("{herring} at {peer} was planned, unrelated.", "Night shift ruled out {herring}."),
    test=(
        "Suspected {herring}, ruled out.",
        "{herring} seen earlier was planned and is cleared.",
        "Unrelated: {herring} at {peer} last week.",
        "The test shows no sign of {herring}.",
    ),
)

LOGS: Final = Phrases(
    train=("Log: {terms}.", "Events include {terms}.", "Alarm list: {terms}.", "Monitoring mentions {terms}."),
    validation=("Alarm log: {terms}.",),
    test=("List of events: {terms}.", "Monitoring log includes {terms}."),
)

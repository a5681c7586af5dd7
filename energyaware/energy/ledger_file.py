"""The ledger of a node in the results: `ledger/<run>-<node>.json`, rewritten at each heartbeat.

It holds what is in no table yet, so that the joules of whatever is killed are not lost: attempts at work, the windows
of those, and the node's own. JSON, which anybody can read where a machine has died.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, Final

from energyaware.files import Files
from energyaware.patience import Patience
from energyaware.rows import SCHEMA_VERSION, Row

FOLDER: Final = "ledger"
"""Of the results."""

TIMES: Final = ("started_at", "written_at")
"""Names that stand for times, in ISO 8601."""

NEXT_TIME: Final = Patience(away_s=0.0, full_s=0.0)
"""The next heartbeat writes the ledger anew: an old state of it is not waited with."""


@dataclass(frozen=True)
class LedgerPlace:
    """Where a ledger lies.

    Attributes:
        files: the results.
        name: of the file among them.
    """

    files: Files
    name: str

    def remove(self) -> None:
        """Remove the ledger; nothing if there is none."""
        self.files.remove(self.name)


def write_ledger(place: LedgerPlace, content: Row) -> None:
    """Replace the file, so that readers see the old one or the new one.

    Raises:
        StorageError: it cannot be written now.
    """
    text = json.dumps({"schema_version": SCHEMA_VERSION, **content}, default=_text)
    place.files.with_patience(NEXT_TIME).write(place.name, text.encode(), point="ledger-writing")


def read_ledger(place: LedgerPlace) -> Row:
    """What was written last.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
        ValueError: it is not a ledger of ours.
    """
    return _understood(place.files.read(place.name))


def set_aside(place: LedgerPlace) -> Row | None:
    """Keep what a meter that died left, under another name, for its successor writes under this one.

    Between the two names it may lie under both: `sweep.recover` takes ledgers that were written at one time for one.

    Returns what it had written last; None where there is nothing.

    Raises:
        StorageError: it cannot be read, or kept.
        ValueError: it is not a ledger of ours.
    """
    try:
        content = place.files.read(place.name)
    except FileNotFoundError:
        return None
    stem = place.name.removesuffix(".json")
    for name in (f"{stem}-{number}.json" for number in count(1)):
        if place.files.create(name, content) or place.files.read(name) == content:
            break
    place.remove()
    return _understood(content)


def _understood(text: bytes) -> Row:
    content = json.loads(text, object_hook=_with_times)
    if not isinstance(content, dict) or not {"run", "node", "attempts", "energy", "nodes"} <= content.keys():
        raise ValueError("not a ledger")
    if content.get("schema_version", 0) > SCHEMA_VERSION:
        raise ValueError(f"written under schema {content['schema_version']}, newer than {SCHEMA_VERSION}")
    return content


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _with_times(pairs: Row) -> Row:
    return {
        name: datetime.fromisoformat(value) if name in TIMES and isinstance(value, str) else value
        for name, value in pairs.items()
    }

"""The ledger of a node in the results folder: `ledger/<run>-<node>.json`, rewritten at each heartbeat.

It holds what is in no table yet, so that the joules of whatever is killed are not lost: attempts at work, the windows
of those, and the node's own. JSON, which anybody can read where a machine has died.
"""

import json
import os
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

from energyaware.rows import SCHEMA_VERSION, Row

FOLDER: Final = "ledger"
"""Of a results folder."""

TIMES: Final = ("started_at", "written_at")
"""Names that stand for times, in ISO 8601."""


def write_ledger(path: Path, content: Row) -> None:
    """Replace the file, so that readers see the old one or the new one.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.new")
    with staging.open("w") as file:
        json.dump({"schema_version": SCHEMA_VERSION, **content}, file, default=_text)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)


def read_ledger(path: Path) -> Row:
    """What was written last.

    Raises:
        OSError: there is no such file.
        ValueError: it is not a ledger of ours.
    """
    content = json.loads(path.read_text(), object_hook=_with_times)
    if not isinstance(content, dict) or not {"run", "node", "attempts", "energy", "nodes"} <= content.keys():
        raise ValueError("not a ledger")
    if content.get("schema_version", 0) > SCHEMA_VERSION:
        raise ValueError(f"written under schema {content['schema_version']}, newer than {SCHEMA_VERSION}")
    return content


def set_aside(path: Path) -> Row | None:
    """Keep what a meter that died left, under another name, for its successor writes under this one.

    Returns what it had written last; None where there is nothing.
    """
    if not path.exists():
        return None
    aside = next(
        name for number in count(1) if not (name := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists()
    )
    path.replace(aside)
    return read_ledger(aside)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _with_times(pairs: Row) -> Row:
    return {
        name: datetime.fromisoformat(value) if name in TIMES and isinstance(value, str) else value
        for name, value in pairs.items()
    }

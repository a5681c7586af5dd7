"""What a node says of our software, of the results folder and of its meters, run on that node.

It is sent there as code (see `cluster.survey`): what it loads by name is what the node has, which may be another
version of ours, broken, or not there. That is an answer too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

LOOKS, PAUSE_S = 6, 0.5
"""For what another machine wrote to be seen: network drives remember for a while that something was not there."""


@dataclass(frozen=True)
class Meeting:
    """A place in the results where nodes and launcher find what each other has written.

    Attributes:
        url: the results, as a node may reach them.
        folder: of this check alone.
        word: content of its file `launcher`, and to be that of a file named like the node.
    """

    url: str
    folder: str
    word: str


@dataclass(frozen=True)
class Found:
    """What the probe tells of a node.

    Attributes:
        versions: as `energyaware.versions` has them; None where it cannot be loaded.
        broken: why it, or what meters need, cannot.
        results: what is wrong with the results there; None where nothing is, or nobody asked.
        meters: `energyaware.energy.sources.Line` of each component, as plain values.
    """

    versions: dict[str, str] | None
    broken: str | None
    results: str | None
    meters: tuple[dict[str, Any], ...]


def probe_of(meeting: Meeting | None, components: Sequence[str]) -> Callable[[str], dict[str, Any]]:
    """What to ask each node: fields of `Found`. `components` are those whose meters are tried."""
    asked = None if meeting is None else asdict(meeting)
    wanted = tuple(components)

    def probe(name: str) -> dict[str, Any]:
        try:
            from energyaware.versions import versions

            found = Found(versions(), None, None, meters(wanted))
        except Exception as problem:  # whatever loading somebody's code may raise
            found = Found(None, f"{' '.join(str(problem).split())} ({sys.executable})", None, ())
        else:
            found = replace(found, results=None if asked is None else meet(name, **asked))
        return asdict(found)

    return probe


def meet(name: str, url: str, folder: str, word: str) -> str | None:
    """Read the launcher's word in the results and leave one; or what is wrong, in one line.

    Nothing is written where the word cannot be read: it would be a folder that nobody looks into.
    """
    from energyaware.files import open_files
    from energyaware.patience import Patience, cause_of

    try:
        files = open_files(url).with_patience(Patience(away_s=5.0, full_s=0.0))
        if not seen(lambda: files.read(f"{folder}/launcher") == word.encode()):
            there = files.local is None or files.local.exists()
            return "is another folder there than here" if there else "is not there"
    except Exception as problem:
        return f"cannot be read there: {cause_of(problem.__cause__ or problem)}"  # type: ignore[arg-type]
    try:
        files.write(f"{folder}/{name}", word.encode())
    except Exception as problem:
        return f"cannot be written to there: {cause_of(problem.__cause__ or problem)}"  # type: ignore[arg-type]
    return None


def seen(look: Callable[[], bool]) -> bool:
    """Whether a file is there that another machine has written; looks for a while."""
    for left in reversed(range(LOOKS)):
        try:
            if look():
                return True
        except FileNotFoundError:
            pass
        if left:
            time.sleep(PAUSE_S)
    return False


def meters(components: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """What each component is read from here; the meters are started, and stopped again."""
    if not components:
        return ()
    from energyaware.energy.base import MeterSettings
    from energyaware.energy.sources import find_sources

    sources = find_sources(MeterSettings(components=tuple(components)))  # type: ignore[arg-type]
    sources.close()
    return tuple(asdict(line) for line in sources.lines)

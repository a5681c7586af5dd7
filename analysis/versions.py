"""Which versions of Python, of libraries and of our own code finished stages were measured with."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from analysis.load import Results

_HASH: Final = 8
"""Digits of a hash that people are shown."""

_CODE: Final = "code"
"""Our own sources; their version is a hash."""


@dataclass(frozen=True)
class Versions:
    """Stages that were measured with the same versions.

    Attributes:
        versions: by name, `python`, those of libraries, and `code`, a hash of our sources: what all rows name.
        stage_ids: of the stages.
    """

    versions: dict[str, str]
    stage_ids: list[str]


def differences(results: Results, *, asked_only: bool = True) -> list[Versions]:
    """The finished stages by the versions they were measured with, most stages first; one entry: all are the same.

    What some row does not name is not compared, and a row that names nothing is left out: earlier releases named less.

    Args:
        results: a loaded results folder.
        asked_only: whether stages that the plan no longer asks for are left aside.
    """
    stages = results.asked_stages() if asked_only else results.stages
    rows = stages.select("stage_id", "versions").sort("stage_id").collect().iter_rows()
    named = {stage_id: versions for stage_id, text in rows if (versions := _parsed(text))}
    common = set.intersection(*(set(versions) for versions in named.values())) if named else set()
    alike: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    for stage_id, versions in named.items():
        alike[tuple((name, versions[name]) for name in sorted(common))].append(stage_id)
    found = [Versions(dict(versions), stage_ids) for versions, stage_ids in alike.items()]
    return sorted(found, key=lambda each: (-len(each.stage_ids), each.stage_ids))


def _parsed(text: str | None) -> dict[str, str]:
    try:
        versions = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(name): str(version) for name, version in versions.items()} if isinstance(versions, dict) else {}


def in_words(found: Sequence[Versions]) -> str | None:
    """Such as "12 stages with torch 2.12.0, 3 with torch 2.13.0"; None where all are the same."""
    if len(found) < 2:  # noqa: PLR2004
        return None
    differing = [name for name in found[0].versions if len({each.versions[name] for each in found}) > 1]
    counts = [str(len(each.stage_ids)) for each in found]
    counts[0] += " stage" if counts[0] == "1" else " stages"
    return ", ".join(f"{count} with {_named(each, differing)}" for count, each in zip(counts, found, strict=True))


def _named(each: Versions, names: list[str]) -> str:
    shown = {name: each.versions[name][:_HASH] if name == _CODE else each.versions[name] for name in names}
    return " and ".join(f"{name} {version}" for name, version in shown.items())

"""Checkpoints in a results folder: `checkpoints/<stage_id>/<step>/`, which counts only with its COMMIT.

COMMIT is written last and removed first, so what it names was whole when it was written. Loads no torch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from energyaware.checkpoints import CheckpointRule
from energyaware.files import Files
from energyaware.points import reached
from energyaware.rows import Row
from energyaware.spec import PROTOCOL_VERSION

logger = logging.getLogger(__name__)

FOLDER: Final = "checkpoints"
COMMIT: Final = "COMMIT"


@dataclass(frozen=True)
class Start:
    """What a training must have in common with a checkpoint to go on from it.

    Attributes:
        stage_id: its settings, model and data.
        digest: of the masks it keeps, and of names and shapes of what it trains.
        world_size: workers of the gang.
        zero_stage: DeepSpeed's.
        versions: of the libraries whose formats the state is in.
        protocol: version of what settings mean.
    """

    stage_id: str
    digest: str
    world_size: int
    zero_stage: int
    versions: dict[str, str]
    protocol: int = PROTOCOL_VERSION


@dataclass(frozen=True)
class Committed:
    """What COMMIT says of a checkpoint.

    Attributes:
        start: what the training was, when it was written.
        step: optimizer steps taken, skipped ones too.
        epoch: the epoch of the last of them.
        attempts: [attempt, from_step, to_step] of all whose steps these are, in order.
        epochs: rows of the finished epochs.
        loss_sums: of the unfinished epoch so far, in nats, one per rank; its targets and tokens follow from the steps.
        overflows: steps in a row, up to this one, whose gradients overflowed.
        files: sizes in bytes of all other files, by name.
    """

    start: Start
    step: int
    epoch: int
    attempts: list[list[int]]
    epochs: list[Row]
    loss_sums: list[float]
    overflows: int
    files: dict[str, int]

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(self.files.values())

    def as_json(self) -> bytes:
        """Content of COMMIT: floats as they are, to the last bit."""
        content = asdict(self)
        return json.dumps(content.pop("start") | content, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Committed:
        """What `as_json` made.

        Raises:
            ValueError: it made something else, in one line.
        """
        try:
            read = json.loads(content)
            start = Start(**{field.name: read.pop(field.name) for field in fields(Start)})
            committed = cls(start, **read)
            sound = _sound(committed)
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise ValueError("its COMMIT is not one of this version")
        return committed


class Checkpoints:
    """Checkpoints of one stage."""

    def __init__(self, files: Files, stage_id: str) -> None:
        self.files, self.stage_id = files, stage_id
        self._root = f"{FOLDER}/{stage_id}"

    def folder(self, step: int) -> str:
        """Name of the folder of the checkpoint after so many steps."""
        return f"{self._root}/{step:08d}"

    def usable(self, start: Start) -> list[Committed]:
        """Committed checkpoints that such a training can go on from, newest first; of others the log says why not."""
        found = []
        for committed in self._committed():
            if reason := _difference(committed.start, start):
                logger.warning(
                    "stage %s: the checkpoint of step %d is passed over: %s", self.stage_id, committed.step, reason
                )
            else:
                found.append(committed)
        return found

    def newest(self) -> Committed | None:
        """The newest one that is committed, whoever can go on from it."""
        return next(self._committed(), None)

    def commit(self, committed: Committed) -> None:
        """Let a checkpoint count whose files are all there."""
        self.files.write(f"{self.folder(committed.step)}/{COMMIT}", committed.as_json())

    def retain(self, rule: CheckpointRule) -> None:
        """Remove all but the newest ones, as the rule says, and what was never committed."""
        kept, total_bytes = set(), 0
        for number, committed in enumerate(self._committed()):
            total_bytes += committed.size_bytes
            fits = rule.max_bytes is None or total_bytes <= rule.max_bytes
            if number == 0 or (number < rule.keep and fits):
                kept.add(self.folder(committed.step))
        for folder in self._folders():
            if folder not in kept:
                self._remove(folder, "checkpoint-pruning")

    def clear(self, step: int) -> None:
        """Remove what is there of the checkpoint after so many steps."""
        self._remove(self.folder(step), None)

    def remove(self) -> None:
        """Remove all checkpoints of the stage."""
        for folder in self._folders():
            self.files.remove(f"{folder}/{COMMIT}")
        reached("checkpoints-removing")
        self.files.remove_folder(self._root)

    def _remove(self, folder: str, point: str | None) -> None:
        self.files.remove(f"{folder}/{COMMIT}")
        if point:
            reached(point)
        self.files.remove_folder(folder)

    def _folders(self) -> list[str]:
        """Folders of all checkpoints, whole or not."""
        return list(dict.fromkeys(name.rpartition("/")[0] for name in self.files.names(self._root)))

    def _committed(self) -> Iterator[Committed]:
        """Newest first: of the last attempt first, then of the most steps."""
        found = []
        for name in self.files.names(self._root):
            folder, _, file = name.rpartition("/")
            if file != COMMIT:
                continue
            try:
                committed = Committed.from_json(self.files.read(name))
            except FileNotFoundError:
                continue
            except ValueError as reason:
                logger.warning("stage %s: %s is passed over: %s", self.stage_id, folder, reason)
                continue
            if folder == self.folder(committed.step) and committed.start.stage_id == self.stage_id:
                found.append(committed)
            else:
                logger.warning("stage %s: %s is passed over: it is of another stage or step", self.stage_id, folder)
        yield from sorted(found, key=lambda one: (one.attempts[-1][0], one.step), reverse=True)


def last_committed(files: Files, stage_id: str) -> Row | None:
    """What COMMIT of a stage's newest checkpoint says, by its names there; None without one."""
    newest = Checkpoints(files, stage_id).newest()
    if newest is None:
        return None
    row: dict[str, Any] = json.loads(newest.as_json())
    return row


def _sound(committed: Committed) -> bool:
    """Whether it can be worked with: content of a file that somebody else may have written."""
    return (
        isinstance(committed.step, int)
        and bool(committed.attempts)
        and all(len(part) == 3 and all(isinstance(n, int) for n in part) for part in committed.attempts)  # noqa: PLR2004
        and all(isinstance(row, dict) for row in committed.epochs)
        and all(isinstance(value, int | float) for value in committed.loss_sums)
        and len(committed.loss_sums) == committed.start.world_size
        and isinstance(committed.overflows, int)
        and all("/" not in name and isinstance(size, int) for name, size in committed.files.items())
    )


def _difference(found: Start, wanted: Start) -> str | None:
    """Why a training cannot go on from a checkpoint of another, or None."""
    if found.protocol != wanted.protocol:
        return f"it is of protocol {found.protocol}, this is {wanted.protocol}"
    if found.zero_stage != wanted.zero_stage:
        return f"it is of ZeRO stage {found.zero_stage}, this is {wanted.zero_stage}"
    if found.world_size != wanted.world_size:
        return f"it is of {found.world_size} workers, these are {wanted.world_size}"
    for library, version in wanted.versions.items():
        if found.versions.get(library) != version:
            return f"it was written with {library} {found.versions.get(library)}, this is {version}"
    return None if found.digest == wanted.digest else "it started from other masks or layers"

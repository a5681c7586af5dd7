"""Checkpoints as a gang writes and reads them: every rank its part, and one of them what makes it count.

In a local or shared folder the ranks write where the checkpoint is to lie. For object storage they write to a local
folder of each node, whose first rank then copies it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.checkpoint_store import Checkpoints, Committed, Start
from energyaware.energy.windows import synchronise
from energyaware.errors import Fenced, StorageError
from energyaware.measuring import gather
from energyaware.patience import Patience, cause_of
from energyaware.points import reached
from energyaware.rows import Row

if TYPE_CHECKING:
    from energyaware.checkpoints import Keeping
    from energyaware.files import Files
    from energyaware.stage import Place
    from energyaware.trainer import Trainer

logger = logging.getLogger(__name__)

WRITING: Final = Patience(away_s=10.0, full_s=0.0)
"""With storage while a checkpoint is written: meanwhile nobody trains, and training can go on without it."""


@dataclass(frozen=True)
class Reached:
    """How far a training has come; as `Committed` has it, but for `loss_sum`, which is this rank's."""

    step: int
    epoch: int
    epochs: Sequence[Row]
    loss_sum: float


class GangCheckpoints:
    """Checkpoints of a gang's training. Every rank must call its methods, and all get the same answers.

    Args:
        files: the results.
        start: what the training starts from.
        place: of this rank.
        trainer: what is saved and loaded.
        keeping: how the attempt keeps its work.
        fence: raises Fenced where nothing may be written any more.
    """

    def __init__(
        self,
        files: Files,
        start: Start,
        place: Place,
        trainer: Trainer,
        keeping: Keeping,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        self._fence = fence
        self._start, self._place, self._trainer, self._keeping = start, place, trainer, keeping
        self._reading = Checkpoints(files, start.stage_id)
        self._writing = Checkpoints(files.with_patience(WRITING), start.stage_id)
        self._resumed: Committed | None = None
        self._left_at: int | None = None

    @property
    def attempts(self) -> list[list[int]]:
        """[attempt, from_step, to_step] of those whose training this one went on from."""
        return self._resumed.attempts if self._resumed else []

    @property
    def last_step(self) -> int:
        """Optimizer steps in the newest checkpoint, 0 without one: where the next attempt goes on."""
        return self._left_at or (self._resumed.step if self._resumed else 0)

    def resume(self) -> Committed | None:
        """Bring the trainer to the newest checkpoint that it can go on from; None, and untouched, without one.

        One that is not what was written is removed, and the one before it is tried.
        """
        found: list[Committed] = gather(self._reading.usable(self._start) if self._leads else [])[0]
        for committed in found:
            with self._fetched(committed) as folder:
                if not (problem := self._problem_of(committed, folder)):
                    self._trainer.load(folder, committed.overflows)
                    self._resumed = committed
                    return committed
            self._warn("the checkpoint of step %d is removed: %s", committed.step, problem)
            if self._leads:
                self._reading.clear(committed.step)
        if found:
            self._warn("it starts anew")
        return None

    def leave(self, now: Reached) -> bool:
        """Leave a checkpoint and remove older ones, as the rule says.

        Returns:
            Whether it counts. Where it cannot be written the log says why, and nothing that is torn counts.

        Raises:
            Fenced: another launcher holds the results.
        """
        store = self._writing
        try:
            self._on_first(self._fence)
            self._on_first(lambda: store.clear(now.step))
            with self._folder_to_fill(store.folder(now.step)) as folder:
                parts = self._on_all(lambda: (self._save(folder), now.loss_sum))
            if self._leads:
                reached("checkpoint-uncommitted")
            self._on_first(lambda: store.commit(self._committed(now, parts)))
        except _Unwritten as problem:
            self._warn("it goes on without a checkpoint of step %d: %s", now.step, problem)
            with suppress(_Unwritten):
                self._on_first(lambda: store.clear(now.step))
            return False
        self._left_at = now.step
        if self._leads:
            reached("checkpoint-committed")
        try:
            self._on_first(lambda: store.retain(self._keeping.rule))
        except _Unwritten as problem:
            self._warn("older checkpoints stay for now: %s", problem)
        return True

    def _committed(self, now: Reached, parts: Sequence[tuple[dict[str, int], float]]) -> Committed:
        return Committed(
            self._start,
            step=now.step,
            epoch=now.epoch,
            attempts=_lineage(self._resumed, self._keeping.attempt, now.step),
            epochs=list(now.epochs),
            loss_sums=[loss_sum for _, loss_sum in parts],
            overflows=self._trainer.overflows,
            files={name: size for files, _ in parts for name, size in files.items()},
        )

    def _save(self, folder: Path) -> dict[str, int]:
        files = self._trainer.save(folder)
        reached("checkpoint-writing")
        return files

    def _problem_of(self, committed: Committed, folder: Path) -> str | None:
        """Why a checkpoint cannot be loaded, or None; each rank looks through some of its files.

        Raises:
            OSError: it cannot be read now, on any rank. It may be whole, which another attempt finds out.
        """
        from energyaware.checkpoint_content import problem_of

        mine = list(committed.files.items())[self._place.rank :: self._place.world_size]
        try:
            problems = self._on_all(lambda: problem_of(folder, dict(mine)))
        except _Unwritten as problem:
            raise OSError(f"the checkpoint of step {committed.step} cannot be read: {problem}") from None
        return next(filter(None, problems), None)

    # -- where its files are while ranks write and read them -----------------------------------------------------------

    @contextmanager
    def _folder_to_fill(self, name: str) -> Iterator[Path]:
        files = self._writing.files
        if files.local:
            folder = files.local / name
            self._on_all(lambda: folder.mkdir(parents=True, exist_ok=True))
            yield folder
            return
        with self._folder_of_node() as folder:
            yield folder
            self._on_all(lambda: files.put(folder, name) if self._local_rank == 0 else None)

    @contextmanager
    def _fetched(self, committed: Committed) -> Iterator[Path]:
        files, name = self._reading.files, self._reading.folder(committed.step)
        if files.local:
            yield files.local / name
            return
        with self._folder_of_node() as folder:
            if self._local_rank == 0:
                files.get(name, folder)
            synchronise()
            yield folder

    @contextmanager
    def _folder_of_node(self) -> Iterator[Path]:
        """A local folder that the ranks of a node share, removed afterwards."""
        made = self._on_all(lambda: tempfile.mkdtemp(prefix="energyaware-") if self._local_rank == 0 else "")
        folder = Path(made[self._place.rank - self._local_rank])
        try:
            yield folder
            synchronise()
        finally:
            if self._local_rank == 0:
                shutil.rmtree(folder, ignore_errors=True)

    # -- agreement -----------------------------------------------------------------------------------------------------

    def _on_all(self, action: Callable[[], Any]) -> list[Any]:
        """Results of all ranks. Where storage fails one of them, all raise _Unwritten."""
        result = problem = None
        try:
            result = action()
        except Fenced:
            raise
        except StorageError as error:
            problem = str(error)
        except OSError as error:
            problem = cause_of(error)
        answers = gather((result, problem))
        for _, problem in answers:
            if problem:
                raise _Unwritten(problem)
        return [result for result, _ in answers]

    def _on_first(self, action: Callable[[], None]) -> None:
        """The same for what only one rank has to do."""
        self._on_all(action if self._leads else lambda: None)

    @property
    def _leads(self) -> bool:
        return self._place.rank == 0

    @property
    def _local_rank(self) -> int:
        """Ranks of a node follow each other, from its first: DeepSpeed wants to be told by the same variable."""
        return int(os.environ["LOCAL_RANK"])

    def _warn(self, message: str, *about: object) -> None:
        if self._leads:
            logger.warning("stage %s: " + message, self._start.stage_id, *about)


class _Unwritten(Exception):
    """Storage failed a rank."""


def _lineage(resumed: Committed | None, attempt: int, step: int) -> list[list[int]]:
    """[attempt, from_step, to_step] of all whose steps a checkpoint has, this attempt's last."""
    earlier, from_step = (resumed.attempts, resumed.step) if resumed else ([], 0)
    if earlier and earlier[-1][0] == attempt:  # which was begun again under the same number
        *earlier, (_, from_step, _) = earlier
    return [*earlier, [attempt, from_step, step]]

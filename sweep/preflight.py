"""Whether stages could run on these nodes: asked before anything is spent, and told as problems with what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from cluster.node_report import size_of
from cluster.survey import ANSWER_S, NodeReport, survey
from energyaware.errors import InputError, StorageError
from energyaware.files import INCOMING
from energyaware.versions import versions
from sweep.checkpoint_size import checkpoints_bytes
from sweep.node_probe import Meeting, probe_of, seen
from sweep.node_problems import Launcher, Problem, disk_problems, problems_of

if TYPE_CHECKING:
    from rich.console import Console

    from energyaware.energy.base import Component
    from energyaware.spec import StageSpec
    from energyaware.store import Store
    from sweep.session import Setting


@dataclass(frozen=True)
class Asked:
    """What nodes are to be fit for.

    Attributes:
        specs: stages to run.
        store: where results go; None: not looked at.
        components: whose meters are tried on every node.
        keep: checkpoints kept of a fine-tuning.
        refuse_shared_gpus: whether GPUs with processes of others are refused, and not only warned of.
    """

    specs: Sequence[StageSpec] = ()
    store: Store | None = None
    components: Sequence[Component] = ()
    keep: int = 0
    refuse_shared_gpus: bool = False


@dataclass(frozen=True)
class Findings:
    """What the nodes said, and what is wrong with it."""

    reports: tuple[NodeReport, ...]
    problems: tuple[Problem, ...]


def preflight(setting: Setting, console: Console, *, refuse_shared_gpus: bool = False) -> tuple[NodeReport, ...]:
    """Look at the nodes of the cluster that was joined. Says nothing where all is well, and warns of what is not.

    Only the GPUs' meters are tried: those of the nodes start next, and refuse a node of which nothing else is read.

    Raises:
        InputError: stages could not run on some node, or their results could not be compared.
    """
    sweep, here = setting.sweep, setting.address == "local"
    asked = Asked(
        [stage.spec for stage in setting.left.stages],
        setting.store,
        [component for component in sweep.energy.components if component == "gpu"],
        sweep.checkpoints.keep,
        refuse_shared_gpus,
    )
    with console.status("asking every node whether stages can run on it"):
        found = look(asked, here=here)
    refusing = [problem for problem in found.problems if problem.refuses]
    for problem in [*(each for each in found.problems if not each.refuses), *refusing[1:]]:
        style = "red" if problem.refuses else "yellow"
        console.print(problem.line, style=style, highlight=False, markup=False, soft_wrap=True)
    if refusing:
        others = f" (and {len(refusing) - 1} more, above)" if refusing[1:] else ""
        raise InputError("--address", setting.address, refusing[0].line + others)
    return found.reports


def look(asked: Asked, *, here: bool, answer_s: float = ANSWER_S) -> Findings:
    """Ask all nodes, or this machine alone. A node that has not answered in so many seconds is silent.

    Raises:
        StorageError: the results cannot be written or read by this process.
    """
    paths = paths_of(asked.specs)
    if here or asked.store is None:
        reports = survey(probe_of(None, asked.components), paths, here=here, answer_s=answer_s)
        unseen: list[str] = []
    else:
        with meeting_at(asked.store) as meeting:
            reports = survey(probe_of(meeting, asked.components), paths, answer_s=answer_s)
            unseen = [report.node.name for report in reports if _is_unseen(report, meeting, asked.store)]
    launcher = Launcher(
        versions(), {path: size_of(Path(path)) for path in paths}, refuse_shared_gpus=asked.refuse_shared_gpus
    )
    problems = problems_of(reports, launcher, unseen)
    return Findings(reports, (*problems, *_disk_problems(asked)))


def paths_of(specs: Sequence[StageSpec]) -> list[str]:
    """Files and folders of this machine that stages read where they run: own models, data and calibration texts."""
    models = [spec.model.location for spec in specs if spec.model.kind == "folder"]
    calibrations = [spec.pruning.calibration for spec in specs]
    sets = [spec.data for spec in specs] + [each.data for each in calibrations if each and each.data]
    files = [file for data in sets if data.kind == "files" for _, file in data.files]
    return list(dict.fromkeys([*models, *files]))


@contextmanager
def meeting_at(store: Store) -> Iterator[Meeting]:
    """A place in the results where nodes and this process leave a word; nothing is left of it."""
    meeting = Meeting(store.url, f"{INCOMING}/preflight-{uuid4().hex}", uuid4().hex)
    store.files.write(f"{meeting.folder}/launcher", meeting.word.encode())
    try:
        yield meeting
    finally:
        with suppress(StorageError):  # the hidden folder is cleared by the next run
            store.files.remove_folder(meeting.folder)


def _is_unseen(report: NodeReport, meeting: Meeting, store: Store) -> bool:
    """Whether what the node says that it wrote is not to be found."""
    wrote = report.silent is None and report.found["versions"] is not None and report.found["results"] is None
    name = f"{meeting.folder}/{report.node.name}"
    return wrote and not seen(lambda: store.files.read(name) == meeting.word.encode())


def _disk_problems(asked: Asked) -> Iterator[Problem]:
    if asked.store is None or asked.store.root is None:
        return iter(())
    free_bytes = shutil.disk_usage(asked.store.root).free
    return disk_problems(asked.store.url, free_bytes, checkpoints_bytes(asked.specs, asked.keep))

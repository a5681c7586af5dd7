"""What is wrong with nodes, from what they say of themselves, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cluster.survey import NodeReport
from energyaware.errors import few
from energyaware.versions import CODE
from sweep.node_probe import Found

CLOCK_TOLD_S: Final = 1.0
"""Clocks that differ by more are told: windows of one stage on two nodes would not fit over each other in the rows."""

CLOCK_REFUSED_S: Final = 30.0
"""By more: attempts would begin before what they wait for has ended, and a launcher's silence is told by 30 s too."""

LEAST_FREE_BYTES: Final = 10**9
"""Less is told whatever is run."""

ONE_FOLDER: Final = "every node needs the same folder: one of a network drive, at the same path, or object storage"


@dataclass(frozen=True)
class Problem:
    """What is wrong, where, and what to do.

    Attributes:
        nodes: names of those that have it.
        what: is wrong.
        to_do: about it.
        refuses: whether nothing can be run before that.
    """

    nodes: tuple[str, ...]
    what: str
    to_do: str
    refuses: bool = True

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{few(self.nodes)}: {self.what}: {self.to_do}"


@dataclass(frozen=True)
class Launcher:
    """What nodes are held against.

    Attributes:
        versions: of the launcher.
        sizes: of the paths that stages read, seen from the launcher.
        refuse_shared_gpus: whether GPUs with processes of others are refused.
    """

    versions: Mapping[str, str]
    sizes: Mapping[str, int | str]
    refuse_shared_gpus: bool = False


def problems_of(reports: Sequence[NodeReport], launcher: Launcher, unseen: Sequence[str] = ()) -> tuple[Problem, ...]:
    """Those of all nodes; what several nodes have in common is one.

    Args:
        reports: of the nodes.
        launcher: what they are held against.
        unseen: names of nodes whose word in the results the launcher did not find.
    """
    found: dict[Problem, list[str]] = {}
    for report in reports:
        for problem in _of_node(report, launcher, several=len(reports) > 1, unseen=report.node.name in unseen):
            found.setdefault(problem, []).append(report.node.name)
    return tuple(Problem(tuple(names), each.what, each.to_do, each.refuses) for each, names in found.items())


def disk_problems(url: str, free_bytes: int, wanted_bytes: int | None) -> Iterator[Problem]:
    """Of the file system that the results lie on; `wanted_bytes` is what one fine-tuning's checkpoints take."""
    if free_bytes >= max(LEAST_FREE_BYTES, wanted_bytes or 0):
        return
    wanted = f"; checkpoints of one fine-tuning take up to {_gigabytes(wanted_bytes)}" if wanted_bytes else ""
    what = f"{_gigabytes(free_bytes)} are free{wanted}"
    yield Problem((url,), what, "free space, or keep less: checkpoints.keep, checkpoints.max_gb", refuses=False)


def _of_node(report: NodeReport, launcher: Launcher, *, several: bool, unseen: bool) -> Iterator[Problem]:
    if report.silent is not None:
        what = f"does not answer: {report.silent}"
        yield Problem((), what, "see whether it runs, and is reached, by `ray status`; or take it out of the cluster")
        return
    found = Found(**report.found)
    yield from _of_versions(found, launcher)
    yield from _of_results(found, unseen=unseen)
    yield from _of_paths(report, launcher)
    yield from _of_clock(report)
    yield from _of_network(report, several=several)
    yield from _of_gpus(report, refuse=launcher.refuse_shared_gpus)
    yield from _of_meters(found)
    if report.niceness > 0:
        what = f"its workers run at niceness {report.niceness}, so that measured work waits for other processes"
        yield Problem((), what, "start Ray there with RAY_worker_niceness=0 in its environment", refuses=False)


def _of_versions(found: Found, launcher: Launcher) -> Iterator[Problem]:
    if found.versions is None:
        to_do = "install there what is installed here, or run with --ship-code"
        yield Problem((), f"energyaware cannot be loaded: {found.broken}", to_do)
        return
    here, there = launcher.versions, found.versions
    same_code = here[CODE] == there[CODE]
    names = [name for name in dict.fromkeys([*here, *there]) if not (name == "energyaware" and same_code)]
    differing = [
        f"{'code of energyaware' if name == CODE else name} {there.get(name, 'missing')}, here {here.get(name, 'none')}"
        for name in names
        if here.get(name) != there.get(name)
    ]
    if differing:
        what = f"other versions than here: {'; '.join(differing)}"
        remedy = "" if same_code else "; --ship-code runs this code on all nodes"
        yield Problem((), what, f"install the same on all nodes, or results depend on where a stage ran{remedy}")


def _of_results(found: Found, *, unseen: bool) -> Iterator[Problem]:
    if found.results is not None:
        yield Problem((), f"the results folder {found.results}", ONE_FOLDER)
    elif unseen:
        yield Problem((), "what it writes to the results folder is not seen here", ONE_FOLDER)


def _of_paths(report: NodeReport, launcher: Launcher) -> Iterator[Problem]:
    for path, here in launcher.sizes.items():
        there = report.sizes[path]
        if there == here:
            continue
        what = f"holds {there} bytes there, {here} here" if isinstance(there, int) else there
        yield Problem((), f"{path}: {what}", "stages read it on their own node: have the same at the same path")


def _of_clock(report: NodeReport) -> Iterator[Problem]:
    clock = report.clock
    if clock is not None and clock.differs_s > CLOCK_TOLD_S:
        what = f"its clock is {abs(clock.ahead_s):.1f} s {'ahead' if clock.ahead_s > 0 else 'behind'}"
        refuses = clock.differs_s > CLOCK_REFUSED_S
        yield Problem((), what, "have NTP set it (`chronyc makestep`, `timedatectl set-ntp true`)", refuses=refuses)


def _of_network(report: NodeReport, *, several: bool) -> Iterator[Problem]:
    for library, chosen in report.chosen.items():
        if chosen and not _exists(library, chosen, report.interfaces):
            there = ", ".join(report.interfaces)
            what = f"{library}_SOCKET_IFNAME is {chosen}, and no interface is called so; there are {there}"
            yield Problem((), what, "start Ray there with the right name, or without one")
    if several and report.interface is None and not all(report.chosen.values()):
        what = f"none of its network interfaces has {report.node.address}, by which other nodes reach it"
        to_do = "start Ray there with GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, or trials over several nodes may hang"
        yield Problem((), what, to_do, refuses=False)


def _exists(library: str, chosen: str, interfaces: Iterable[str]) -> bool:
    """Whether what is chosen can be met: gloo takes names; NCCL beginnings of names, =names, or ^what not to take."""
    names = chosen.lstrip("=").split(",")
    if library == "GLOO" or chosen.startswith("="):
        return set(names) <= set(interfaces)
    return chosen.startswith("^") or any(each.startswith(tuple(names)) for each in interfaces)


def _of_gpus(report: NodeReport, *, refuse: bool) -> Iterator[Problem]:
    shared = [f"{gpu.uuid} ({', '.join(map(str, gpu.others))})" for gpu in report.node.gpus if gpu.others]
    if shared:
        what = f"other processes are on its GPUs, and their joules would count as ours: {', '.join(shared)}"
        yield Problem((), what, "see `nvidia-smi` there; end them, or leave those GPUs out", refuses=refuse)
    secretive = [gpu.uuid for gpu in report.node.gpus if gpu.others is None]
    if secretive and refuse:
        what = f"its driver does not tell which processes are on {', '.join(secretive)}"
        yield Problem((), what, "leave those GPUs out, or set resources.exclusive to none")


def _of_meters(found: Found) -> Iterator[Problem]:
    """Only what is null: an estimate is told by `energyaware meters`."""
    for line in found.meters:
        counts = line["component"] != "gpu"  # a node without a GPU lacks nothing
        if line["state"] == "unreadable" or (counts and line["state"] == "absent"):
            to_do = line["advice"] or f"see `energyaware meters` there, or leave {line['component']} out"
            yield Problem((), f"{line['name']} cannot be read: {line['reason']}", to_do, refuses=counts)


def _gigabytes(value: int) -> str:
    return f"{value / 1e9:.1f} GB"

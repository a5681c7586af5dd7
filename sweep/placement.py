"""Where the workers of a trial go: on how many machines, on which, and why on none.

Ray's own PACK and SPREAD do what is possible at the moment: whether a trial stands on one machine or on two would
depend on what else runs, and its joules with it. Here the machines decide, as they are when nothing runs: a trial has a
shape, workers per machine, and asks for exactly that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from cluster.node import Node

SLACK: Final = 1e-9
"""Shares of a core add up to whole ones but for rounding."""

LISTED: Final = 4
"""More machines than these are counted, not listed."""


@dataclass(frozen=True)
class Need:
    """What one trial asks for.

    Attributes:
        workers: in all.
        cpus: of a worker.
        gpus: of a worker.
        gpu_kind: product name of its GPUs; None where no driver tells one, or none is held.
        placement: on as few machines as can hold them, or on as many as there are.
        nodes: on so many instead.
        whole_nodes: whether nothing else may run on these machines.
    """

    workers: int
    cpus: float
    gpus: int = 0
    gpu_kind: str | None = None
    placement: Literal["pack", "spread"] = "pack"
    nodes: int | None = None
    whole_nodes: bool = False

    def __str__(self) -> str:
        """Such as `4 workers with 1 CPU and 1 H100 each`."""
        gpus = f" and {_counted(self.gpus, self.gpu_kind or 'GPU')}" if self.gpus else ""
        where = f" on {_counted(self.nodes, 'machine')}" if self.nodes else ""
        each = " each" if self.workers > 1 else ""
        return f"{_counted(self.workers, 'worker')} with {_counted(self.cpus, 'CPU')}{gpus}{each}{where}"

    def room(self, node: Node) -> int:
        """How many of its workers the machine holds."""
        by_cpus = int(node.cpus / self.cpus + SLACK)
        return min(by_cpus, int(node.gpus_handed_out // self.gpus)) if self.gpus else by_cpus


@dataclass(frozen=True)
class Place:
    """What is asked of Ray for a trial.

    Attributes:
        shape: workers on each of its machines.
        cpus: that it holds on each of them.
        gpus: likewise.
        node_ids: machines that may be used.
    """

    shape: tuple[int, ...]
    cpus: tuple[float, ...]
    gpus: tuple[int, ...]
    node_ids: tuple[str, ...]

    @property
    def bundles(self) -> list[dict[str, float]]:
        """As Ray takes them, one for each machine."""
        return [
            {"CPU": cpus} | ({"GPU": gpus} if gpus else {}) for cpus, gpus in zip(self.cpus, self.gpus, strict=True)
        ]

    def at_once(self, nodes: Iterable[Node]) -> int:
        """How many such trials fit on these machines, when nothing else is on them."""
        cpus, gpus = max(self.cpus), max(self.gpus)
        bundles = sum(
            min(
                int(node.cpus / cpus + SLACK),
                int(node.gpus_handed_out // gpus) if gpus else int(node.cpus / cpus + SLACK),
            )
            for node in nodes
            if node.node_id in self.node_ids
        )
        return bundles // len(self.shape)

    @property
    def strategy(self) -> str:
        """Of its placement group: each bundle is a machine's."""
        return "STRICT_SPREAD" if len(self.shape) > 1 else "STRICT_PACK"

    @property
    def selectors(self) -> list[dict[str, str]]:
        """Of machines, one for each bundle."""
        return [{"ray.io/node-id": f"in({','.join(self.node_ids)})"}] * len(self.shape)


def place(need: Need, nodes: Iterable[Node]) -> Place | None:
    """Where such a trial goes on these machines when nothing else is on them; None if nowhere."""
    usable = sorted((node for node in nodes if _suits(need, node)), key=lambda node: node.node_id)
    if not need.whole_nodes:
        shape = _shape(need, usable)
        return _place(need, shape, [need.cpus * workers for workers in shape], usable) if shape else None
    # What holds all cores of the smallest machine it may get is alone on every one with less than twice as many.
    best: Place | None = None
    for whole in sorted({node.cpus for node in usable}):
        alike = [node for node in usable if whole <= node.cpus < 2 * whole]
        shape = _shape(need, alike)
        if shape and (best is None or len(alike) > len(best.node_ids)):
            best = _place(need, shape, [whole] * len(shape), alike)
    return best


def _place(need: Need, shape: tuple[int, ...], cpus: Sequence[float], nodes: Sequence[Node]) -> Place:
    gpus = tuple(need.gpus * workers for workers in shape)
    return Place(shape, tuple(cpus), gpus, tuple(node.node_id for node in nodes))


def _shape(need: Need, nodes: Sequence[Node]) -> tuple[int, ...]:
    """Workers per machine, most first; empty if they do not fit."""
    rooms = sorted((room for node in nodes if (room := need.room(node))), reverse=True)
    if need.nodes is not None:
        counts: Iterable[int] = (need.nodes,)
    elif need.placement == "pack":
        counts = range(1, 1 + min(len(rooms), need.workers))
    else:
        counts = range(min(len(rooms), need.workers), 0, -1)
    for count in counts:
        if len(rooms) >= count and sum(rooms[:count]) >= need.workers:
            return _evenly(need.workers, rooms[:count])
    return ()


def _evenly(workers: int, rooms: Sequence[int]) -> tuple[int, ...]:
    """So many workers dealt out to machines with so much room each, one after the other."""
    shares = [0] * len(rooms)
    for _ in range(workers):
        shares[min((share, index) for index, share in enumerate(shares) if share < rooms[index])[1]] += 1
    return tuple(sorted(shares, reverse=True))


def _suits(need: Need, node: Node) -> bool:
    if not need.room(node):
        return False
    return not need.gpus or need.gpu_kind is None or kinds_of(node) == {need.gpu_kind}


def kinds_of(node: Node) -> set[str]:
    """Product names of the GPUs of a machine."""
    return {gpu.kind for gpu in node.gpus if gpu.kind}


def why_nowhere(need: Need, nodes: Sequence[Node]) -> str:
    """Why such a trial fits on no machines of these, with the nearest that does."""
    kind = need.gpu_kind if need.gpus else None
    seen = [node for node in nodes if kind is None or kinds_of(node) == {kind}]
    if kind and not seen:
        others = _with_machines(nodes)
        return f"there is no {kind} here" + (f", but {others}" if others else "")
    most = min(need.workers - 1, sum(map(need.room, seen)))
    fewer = range(most, (need.nodes or 1) - 1, -1)
    fits = next((workers for workers in fewer if place(replace(need, workers=workers), nodes)), 0)
    nearest = f"the largest that fits is {_counted(fits, 'worker')}" if fits else "not even one worker fits"
    if need.nodes and not fits:
        nearest = f"not even {_counted(need.nodes, 'worker')} on as many machines fit"
    return f"needs {need} for one trial; {nearest} ({_listed([_described(node) for node in seen]) or 'no machines'})"


def why_kinds_are_unclear(asked: Sequence[str], nodes: Sequence[Node]) -> str | None:
    """Why it is not settled which kinds of GPU stages would be measured on, and what to write; None if it is."""
    mixed = next((node for node in nodes if len(kinds_of(node)) > 1), None)
    if mixed:
        return (
            f"{mixed.name} has GPUs of several kinds, {' and '.join(sorted(kinds_of(mixed)))}, which Ray hands out "
            "without telling them apart: start Ray there with CUDA_VISIBLE_DEVICES naming those of one kind"
        )
    kinds = all_kinds(nodes)
    if not asked and len(kinds) > 1:
        return (
            f"must be given where there are several kinds of GPU, here {_with_machines(nodes)}: one of them, such as "
            f"{kinds[0]}, or a list, to measure everything on each"
        )
    meant = {part: kinds_meant(part, kinds) for part in asked}
    for part, several in meant.items():
        if len(several) > 1:
            return f"{part!r} stands for {' and '.join(several)}: write more of the name"
    twice = [kind for kind in kinds if sum(kind in several for several in meant.values()) > 1]
    return f"names {twice[0]} twice" if twice else None


def kinds_meant(part: str, kinds: Sequence[str]) -> list[str]:
    """The product names that a part of a name stands for: itself alone, where it is a whole one."""
    whole = [kind for kind in kinds if kind.casefold() == part.casefold()]
    return whole or [kind for kind in kinds if part.casefold() in kind.casefold()]


def all_kinds(nodes: Iterable[Node]) -> list[str]:
    """Product names of the GPUs of all machines."""
    return sorted(set[str]().union(*map(kinds_of, nodes)))


def _with_machines(nodes: Sequence[Node]) -> str:
    """Such as `NVIDIA H100 80GB HBM3 (host1, host2) and NVIDIA A100-SXM4-40GB (host3)`."""
    machines = {kind: _listed([node.name for node in nodes if kind in kinds_of(node)]) for kind in all_kinds(nodes)}
    return " and ".join(f"{kind} ({names})" for kind, names in machines.items())


def _described(node: Node) -> str:
    gpus = f" and {_counted(node.gpus_handed_out, 'GPU')}" if node.gpus_handed_out else ""
    return f"{node.name} has {_counted(node.cpus, 'CPU')}{gpus}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _counted(number: float, what: str) -> str:
    return f"{number:g} {what}" + ("" if number == 1 else "s")

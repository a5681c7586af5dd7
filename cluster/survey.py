"""What every node of the cluster says of itself: all are asked at once, and the silent ones are named.

What they run is sent by value, so that a node says what it is whatever code of ours is installed there.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Final

import ray

import cluster
from cluster.calls import on_each
from cluster.local_node import local_node
from cluster.members import described_by_ray
from cluster.node import Gpu, Node
from cluster.node_report import Probe, clock_s, interface_with, report

ANSWER_S: Final = 60.0
"""For a node to start a process and answer: its first one loads Python and Ray from what may be a network drive."""

CLOCK_S: Final = 10.0
"""For all of them to tell the time once more, from processes that run."""

ROUNDS: Final = 4
"""Of asking for the time. The quickest counts; what the answer may be wrong by is half of what it took."""

NICENESS: Final = "RAY_worker_niceness"


@dataclass(frozen=True)
class Clock:
    """How far a node's clock is ahead of this machine's: `ahead_s`, give or take `error_s`."""

    ahead_s: float
    error_s: float

    @property
    def differs_s(self) -> float:
        """What the two differ by at least."""
        return max(0.0, abs(self.ahead_s) - self.error_s)


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself. It is plain data, and holds nothing secret.

    Attributes:
        node: what it has. Of a node that is silent, it is what Ray says, with the memory that Ray hands out.
        silent: why there is no more than that; None where the node answered.
        python: path of the interpreter that its workers run.
        niceness: of its workers: 0 unless measured work waits for whatever else runs there.
        interfaces: addresses of its network interfaces, by their names.
        chosen: what GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME say there, by "GLOO" and "NCCL"; "" where they are unset.
        sizes: bytes of the paths that were asked for, or why they cannot be read.
        found: what the probe answered.
        clock: its clock against this machine's; None where that could not be told.
    """

    node: Node
    silent: str | None = None
    python: str = ""
    niceness: int = 0
    interfaces: Mapping[str, Sequence[str]] = field(default_factory=dict)
    chosen: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int | str] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    clock: Clock | None = None

    @property
    def interface(self) -> str | None:
        """The interface by which other nodes reach it; None where none has its address."""
        return interface_with(self.node.address, self.interfaces)


def survey(
    probe: Probe, paths: Sequence[str] = (), *, here: bool = False, answer_s: float = ANSWER_S
) -> tuple[NodeReport, ...]:
    """Ask every node of the cluster that this process is connected to.

    Args:
        probe: what else to ask; only its own module and the package `cluster` go with it.
        paths: files and folders whose sizes to tell.
        here: ask this process alone, which is all of the cluster, or connected to none: that takes no time.
        answer_s: seconds after which a node is silent.

    Returns:
        Reports in the order of the nodes' names.
    """
    if here:
        node = described_by_ray()[0] if ray.is_initialized() else local_node()
        answer = report(node.name, paths, probe, by_ray=False) | {"niceness": int(os.environ.get(NICENESS, "0"))}
        return (replace(_report(node, answer), clock=Clock(0.0, 0.0)),)
    nodes = described_by_ray()
    with _by_value(cluster, sys.modules[probe.__module__]):
        names = {node.node_id: node.name for node in nodes}
        asked = on_each(names, report, lambda node_id: (names[node_id], tuple(paths), probe))
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=answer_s)
        reports = [_answered(node, asked[node.node_id], answer_s) for node in nodes]
        clocks = _clocks([each.node for each in reports if each.silent is None])
    return tuple(replace(each, clock=clocks.get(each.node)) for each in reports)


@contextmanager
def _by_value(*modules: ModuleType) -> Iterator[None]:
    """Inside the block, what these modules hold is sent as code, to be run where they are not installed."""
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            ray.cloudpickle.unregister_pickle_by_value(module)


def _answered(node: Node, answer: ray.ObjectRef, answer_s: float) -> NodeReport:
    """What the node answered, or that it is silent."""
    try:
        return _report(node, ray.get(answer, timeout=0))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(answer, force=True)
        return NodeReport(node, silent=f"no answer in {answer_s:.0f} s")
    except ray.exceptions.RayError as problem:
        said = getattr(problem, "cause", None) or problem
        return NodeReport(node, silent=f"{type(said).__name__}: {(str(said).strip().splitlines() or [''])[0]}")


def _report(node: Node, answer: dict[str, Any]) -> NodeReport:
    gpus = tuple(Gpu(**gpu) for gpu in answer.pop("gpus"))
    return NodeReport(replace(node, memory_bytes=answer.pop("memory_bytes"), gpus=gpus), **answer)


def _clocks(nodes: Sequence[Node]) -> dict[Node, Clock]:
    """Clocks of nodes on which a process runs by now, without those that do not answer any more."""
    best: dict[Node, Clock] = {}
    for _ in range(ROUNDS if nodes else 0):
        sent_s, deadline_s = time.time(), time.monotonic() + CLOCK_S
        calls = on_each([node.node_id for node in nodes], clock_s)
        asked = {calls[node.node_id]: node for node in nodes}
        waiting = list(asked)
        while waiting and (left_s := deadline_s - time.monotonic()) > 0:
            done, waiting = ray.wait(waiting, timeout=left_s)
            received_s = time.time()
            for answer in done:
                with suppress(ray.exceptions.RayError):
                    clock = clock_from(sent_s, ray.get(answer), received_s)
                    best[asked[answer]] = min(best.get(asked[answer], clock), clock, key=lambda each: each.error_s)
    return best


def clock_from(sent_s: float, theirs_s: float, received_s: float) -> Clock:
    """As NTP has it (RFC 5905, section 8), with one time of theirs: both ways are taken to be equally long."""
    return Clock(theirs_s - (sent_s + received_s) / 2, (received_s - sent_s) / 2)

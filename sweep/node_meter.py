"""One meter per node, as a Ray actor that outlives stages, and the handle that workers open windows with."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from energyaware.energy.base import Source, WindowName
from energyaware.energy.codecarbon import CodeCarbonSource
from energyaware.energy.ledger import Ledger
from energyaware.energy.nvml import NvmlSource
from energyaware.energy.process_tree import cpu_time_s
from energyaware.rows import Row
from sweep.config import Energy

TICK_S: Final = 1.0
"""Time between readings inside a window: shares of CPU time are taken anew at each."""


@ray.remote(num_cpus=0, max_restarts=0)
class NodeMeter:
    """Keeps one node's ledger."""

    def __init__(self, node: str, energy: Energy) -> None:
        self._node, self._energy = node, energy
        self._lock, self._stop = threading.Lock(), threading.Event()

    def start(self) -> None:
        """Read the sources for the first time, and from now on. Apart, for Ray hides what a constructor raises."""
        sources, uuids = _sources(self._energy)
        self._gpu_uuids = {str(index): uuid for index, uuid in enumerate(uuids)}
        self._ledger = Ledger(self._node, sources, cpu_time_s)
        threading.Thread(target=self._tick, daemon=True).start()

    def open(
        self,
        stage_id: str,
        attempt: int,
        name: WindowName,
        epoch: int | None,
        pids: Sequence[int],
        gpus: Sequence[str],
    ) -> int:
        """As the ledger's; `gpus` are Ray's ids, which are NVML indices or UUIDs."""
        uuids = [self._gpu_uuids.get(gpu, gpu) for gpu in gpus]
        with self._lock:
            return self._ledger.open(stage_id, attempt, name, epoch, pids, uuids)

    def close(self, token: int) -> None:
        """As the ledger's."""
        with self._lock:
            self._ledger.close(token)

    def collect(self, stage_id: str, attempt: int, *, kept: bool) -> list[Row]:
        """As the ledger's."""
        with self._lock:
            return self._ledger.collect(stage_id, attempt, kept=kept)

    def collect_idle(self) -> list[Row]:
        """As the ledger's."""
        with self._lock:
            return self._ledger.collect_idle()

    def now(self) -> dict[str, Any]:
        """As the ledger's."""
        with self._lock:
            return self._ledger.now()

    def shut(self) -> None:
        """Stop reading."""
        self._stop.set()
        with self._lock:
            self._ledger.shut()

    def _tick(self) -> None:
        while not self._stop.wait(TICK_S):
            with self._lock:
                self._ledger.tick()


def _sources(energy: Energy) -> tuple[list[Source], list[str]]:
    """What this node's joules are read from, and the UUIDs of its GPUs in NVML's order."""
    import pynvml

    node = CodeCarbonSource(energy.country, energy.region, energy.pue)
    try:
        gpus = NvmlSource()
    except pynvml.NVMLError:  # no NVIDIA driver: no GPU to account for
        return [node], []
    return [node, gpus], gpus.uuids


@dataclass(frozen=True)
class StageWindows:
    """Opens windows of one attempt at the meter of one node (`energyaware.energy.windows.NodeWindows`)."""

    meter: Any
    stage_id: str
    attempt: int
    pids: tuple[int, ...]
    gpus: tuple[str, ...]

    def open(self, name: WindowName, epoch: int | None) -> int:
        """Open a window and return its token."""
        token: int = ray.get(self.meter.open.remote(self.stage_id, self.attempt, name, epoch, self.pids, self.gpus))
        return token

    def close(self, token: int) -> None:
        """Close it."""
        ray.get(self.meter.close.remote(token))


def collect(meters: Iterable[Any], stage_id: str, attempt: int, *, kept: bool) -> list[Row]:
    """Rows of all windows of an attempt on these meters' nodes, which the meters then forget."""
    rows = ray.get([meter.collect.remote(stage_id, attempt, kept=kept) for meter in meters])
    return [row for node_rows in rows for row in node_rows]


def start_meters(energy: Energy) -> dict[str, Any]:
    """A meter on every node of the cluster, by node id; each has read its sources once.

    Raises:
        InputError: CodeCarbon knows no such country or region, or could not start.
    """
    meters = {
        node["NodeID"]: NodeMeter.options(  # type: ignore[attr-defined]
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(node["NodeManagerHostname"], energy)
        for node in ray.nodes()
        if node["Alive"]
    }
    try:
        ray.get([meter.start.remote() for meter in meters.values()])
    except ray.exceptions.RayTaskError as problem:
        raise problem.cause from None
    return meters

"""A gang: the warm worker processes that run one stage together, one per GPU, in one placement group.

A worker keeps its imports and its process group from stage to stage. It runs what it is given and knows nothing of
stages; after any failure the whole gang is replaced, because a collective that lost a rank cannot be trusted.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.calls import all_or_first_error
from cluster.inventory import gpus_of_driver
from cluster.node import named
from cluster.node_report import interface_with, interfaces

Result = TypeVar("Result")
Value = TypeVar("Value")

START_TIMEOUT_S: Final = 300.0
PATIENCE: Final = timedelta(hours=6)
"""How long ranks wait for one that works alone, as in pruning a large model. A rank that died is noticed by Ray."""
HOST_TOLERANCE_BYTES: Final = 256 * 2**20
DEVICE_TOLERANCE_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class WorkerResources:
    """What one worker gets. `device` is what it computes on; a GPU can be held without computing on it."""

    cpus: float
    gpus: float
    device: Literal["cpu", "cuda"]

    @property
    def bundle(self) -> dict[str, float]:
        """As a Ray placement group bundle."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@dataclass(frozen=True)
class Rank:
    """Where a worker stands in its gang. `node` is the machine's name; local rank 0 leads its node."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node: str
    device: Literal["cpu", "cuda"]

    @property
    def leads_node(self) -> bool:
        """Whether this worker acts for its machine (opens its meter's windows)."""
        return self.local_rank == 0


@dataclass(frozen=True)
class Memory:
    """What a worker holds, in bytes."""

    host: int
    device: int


class Whereabouts(NamedTuple):
    """Where a worker is, and what it holds there.

    Attributes:
        node_id: Ray's.
        address: of the machine.
        host: its name.
        gpus: Ray's ids.
        gpu_kinds: product names of these, None where the driver does not say.
    """

    node_id: str
    address: str
    host: str
    gpus: tuple[str, ...]
    gpu_kinds: tuple[str | None, ...]


@ray.remote(max_restarts=0)
class Worker:
    """One process of a gang."""

    def __init__(self) -> None:
        self._baseline = Memory(0, 0)

    def whereabouts(self) -> Whereabouts:
        """Where it is, and what it holds there."""
        context = ray.get_runtime_context()
        gpus = tuple(map(str, context.get_accelerator_ids().get("GPU", [])))
        kinds = tuple(gpu.kind for gpu in named(gpus, gpus_of_driver())) if gpus else ()
        return Whereabouts(context.get_node_id(), ray.util.get_node_ip_address(), socket.gethostname(), gpus, kinds)

    def meeting_point(self, address: str, *, one_node: bool) -> str:
        """Where the ranks find each other: a file where they share a machine, for torch's server listens to all."""
        if one_node:
            return f"file://{tempfile.mkdtemp(prefix='energyaware-gang-')}/ranks"
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{address}:{probe.getsockname()[1]}"

    def form(self, rank: Rank, meeting_point: str, gpus: Sequence[str], warm_up: Callable[[], None]) -> int:
        """Set the rank's environment, join the process group and do the imports. Returns the process id.

        `gpus` are those of the gang on this node, in order of local rank: NCCL and DeepSpeed want a worker to see its
        neighbours' and to use the one that its local rank counts.
        """
        os.environ |= {
            "RANK": str(rank.rank),
            "WORLD_SIZE": str(rank.world_size),
            "LOCAL_RANK": str(rank.local_rank),
            "LOCAL_SIZE": str(rank.local_world_size),
            "DS_ACCELERATOR": rank.device,
            "TOKENIZERS_PARALLELISM": "false",
        }
        for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
            os.environ.setdefault(cache, "64")  # kernels kept per shape: 1024 of them grew a worker by 500 MB
        if rank.local_world_size == rank.world_size:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        elif interface := interface_of(ray.util.get_node_ip_address()):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # without "=" it would be a prefix
        if rank.device == "cuda":
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        import torch

        if rank.device == "cuda":
            torch.cuda.set_device(rank.local_rank)
        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
        torch.distributed.init_process_group(
            "nccl" if rank.device == "cuda" else "gloo",
            init_method=meeting_point,
            rank=rank.rank,
            world_size=rank.world_size,
        )
        warm_up()
        torch.distributed.barrier()
        gc.collect()
        gc.freeze()  # imports stay: looking through them took most of the time between two stages
        self._baseline = measure_memory()
        return os.getpid()

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call the function in this process."""
        return function(*arguments)

    def memory_kept(self) -> Memory:
        """What is held beyond the baseline taken when the gang was formed."""
        now = measure_memory()
        return Memory(now.host - self._baseline.host, now.device - self._baseline.device)


class Gang:
    """Workers of one placement group.

    Args:
        group: bundles from index 0.
        resources: what each worker gets.
        shape: number of workers in each bundle.
        warm_up: imports to make once in each worker, before its memory baseline is taken.
    """

    def __init__(
        self,
        group: PlacementGroup,
        resources: WorkerResources,
        shape: Sequence[int],
        warm_up: Callable[[], None],
    ) -> None:
        bundles = [bundle for bundle, workers in enumerate(shape) for _ in range(workers)]
        self._workers = [
            Worker.options(  # type: ignore[attr-defined]
                num_cpus=resources.cpus,
                num_gpus=resources.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
                runtime_env={
                    "env_vars": {
                        "OMP_NUM_THREADS": str(max(1, int(resources.cpus))),
                        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts, or a meter would read another GPU
                    }
                },
            ).remote()
            for bundle in bundles
        ]
        self._meeting_point = ""
        try:
            places = ray.get([worker.whereabouts.remote() for worker in self._workers], timeout=START_TIMEOUT_S)
            held = {bundle: place.node_id for place, bundle in zip(places, bundles, strict=True)}
            self._cpus = [(node_id, group.bundle_specs[bundle]["CPU"]) for bundle, node_id in held.items()]
            self._form(places, resources, warm_up)
        except BaseException:
            self.dismiss()
            raise

    def _form(self, places: list[Whereabouts], resources: WorkerResources, warm_up: Callable[[], None]) -> None:
        # Ranks of one node are neighbours, so that a node's leader and its followers share memory and links.
        nodes = list(dict.fromkeys(place.node_id for place in places))
        order = sorted(range(len(places)), key=lambda index: nodes.index(places[index].node_id))
        self._workers = [self._workers[index] for index in order]
        places = [places[index] for index in order]
        self.node_ids: list[str] = [place.node_id for place in places]
        self.gpu_ids: list[tuple[str, ...]] = [place.gpus for place in places]
        self.gpu_kinds: set[str | None] = {kind for place in places for kind in place.gpu_kinds}
        self.ranks = []
        for rank, place in enumerate(places):
            peers = self.on_node(place.node_id, range(len(places)))
            self.ranks.append(Rank(rank, len(places), peers.index(rank), len(peers), place.host, resources.device))
        self._meeting_point = ray.get(
            self._workers[0].meeting_point.remote(places[0].address, one_node=len(set(self.node_ids)) == 1)
        )
        forming = [
            worker.form.remote(rank, self._meeting_point, self.gpus_on_node(node), warm_up)
            for worker, rank, node in zip(self._workers, self.ranks, self.node_ids, strict=True)
        ]
        self.pids: list[int] = all_or_first_error(forming, START_TIMEOUT_S)

    def run(self, function: Callable[..., Result], arguments_of: Callable[[Rank], tuple[Any, ...]]) -> list[Result]:
        """Call the function in every worker, with arguments made for its rank; results in rank order.

        Raises:
            Exception: of the worker that failed first; the gang must then be dismissed.
        """
        calls = [
            worker.run.remote(function, *arguments_of(rank))
            for worker, rank in zip(self._workers, self.ranks, strict=True)
        ]
        return all_or_first_error(calls, None)

    def on_node(self, node_id: str, values: Sequence[Value]) -> list[Value]:
        """Of values that stand one per rank, those of the ranks on that node."""
        return [value for node, value in zip(self.node_ids, values, strict=True) if node == node_id]

    def gpus_on_node(self, node_id: str) -> tuple[str, ...]:
        """Ray's ids of the GPUs that the gang holds on that node, in order of local rank."""
        return tuple(gpu for gpus in self.on_node(node_id, self.gpu_ids) for gpu in gpus)

    def cpus_on_node(self, node_id: str) -> float:
        """Cores that are held on that node, by workers or kept free beside them."""
        return float(sum(cpus for node, cpus in self._cpus if node == node_id))

    def is_clean(self) -> bool:
        """Whether every worker's memory is back at its baseline, on the host and on the device."""
        kept: list[Memory] = ray.get([worker.memory_kept.remote() for worker in self._workers])
        return all(memory.host <= HOST_TOLERANCE_BYTES and memory.device <= DEVICE_TOLERANCE_BYTES for memory in kept)

    def dismiss(self) -> None:
        """Kill the workers; their bundles are free again."""
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []
        if self._meeting_point.startswith("file://"):  # needed until now: groups made later meet there too
            shutil.rmtree(Path(self._meeting_point.removeprefix("file://")).parent, ignore_errors=True)


def interface_of(address: str) -> str | None:
    """The network interface that has the address; None where none has it, as behind address translation.

    Ray's address of a node is what other nodes reach it by. Left to themselves, gloo takes the address of the host's
    name, often loopback, and NCCL the first interface it finds.
    """
    return interface_with(address, interfaces())


def measure_memory() -> Memory:
    """Bytes this process holds on the host (resident) and on its device (allocated), after giving back what it can."""
    import psutil
    import torch

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    on_device = 0
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        on_device = torch.cuda.memory_allocated()
    return Memory(psutil.Process().memory_info().rss, on_device)

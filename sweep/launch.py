"""What a sweep asks of the nodes that it is to run on, before there are any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.launch.kuberay import MOUNT, on_volume
from energyaware.errors import InputError
from sweep.sweep_file import dump

if TYPE_CHECKING:
    from sweep.config import Sweep
    from sweep.settings import Resources


@dataclass(frozen=True)
class Nodes:
    """Machines that are asked for, all alike.

    Attributes:
        number: of them.
        cpus: CPU cores of each.
        gpus: GPUs of each.
    """

    number: int
    cpus: int
    gpus: int


def nodes_for(resources: Resources, number: int | None, cpus: int | None, gpus: int | None) -> Nodes:
    """Nodes that one trial fits on: what is not given is what it needs, spread over them evenly.

    Args:
        resources: of one trial.
        number: of nodes; those that its workers are to be spread over, or else one, where it is not given.
        cpus: CPU cores of each.
        gpus: GPUs of each.

    Raises:
        InputError: it does not fit on what is given, or cannot be known to need GPUs.
    """
    gpus_per_worker = resources.gpus_per_worker
    if gpus_per_worker is None:
        if resources.device == "auto" and gpus is None:
            problem = "must be given (0 for none), or resources.device: auto looks at the machine it is run on"
            raise InputError("--gpus-per-node", "", problem)
        gpus_per_worker = int(resources.device == "cuda" or (resources.device == "auto" and bool(gpus)))
    number = number or resources.nodes or 1
    workers = max(resources.workers, resources.inference_workers or 0)
    workers_per_node = ceil(workers / number)
    nodes = Nodes(
        number,
        cpus if cpus is not None else ceil(workers_per_node * resources.cpus_per_worker),
        gpus if gpus is not None else workers_per_node * gpus_per_worker,
    )
    for option, has, worker_needs in (
        ("--cpus-per-node", nodes.cpus, resources.cpus_per_worker),
        ("--gpus-per-node", nodes.gpus, gpus_per_worker),
    ):
        if worker_needs and number * int(has / worker_needs) < workers:
            wanted = f"{workers} workers with {worker_needs:g} each"
            raise InputError(option, str(has), f"one trial is {wanted}, which do not fit on {number} of these nodes")
    return nodes


def for_pods(sweep: Sweep, source: Path, results: str | None, nodes: Nodes) -> tuple[str, str]:
    """The sweep file as pods are to read it, and where they are to put results.

    What it says of models and data must be found there: pods see the volume, and hubs.

    Raises:
        InputError: a path that is not on the volume.
    """
    for field, path in _local_paths(sweep):
        if not on_volume(path):
            problem = (
                f"pods do not see {path}: copy it onto the claim's volume, which is {MOUNT} there, or name a hub id"
            )
            raise InputError(source, field, problem)
    where = results or sweep.results
    if "://" not in where and not where.startswith("/"):
        where = f"{MOUNT}/{where}"
    device = "cuda" if sweep.resources.device == "auto" and nodes.gpus else sweep.resources.device
    resources = sweep.resources.model_copy(update={"device": device})
    return dump(sweep.model_copy(update={"results": where, "resources": resources})), where


def _local_paths(sweep: Sweep) -> Iterator[tuple[str, str]]:
    paths = {f"model[{index}].folder": model.folder for index, model in enumerate(sweep.model)}
    if sweep.data.hub is None:
        paths |= {f"data.{name}": getattr(sweep.data, name) for name in ("path", "train", "validation", "test")}
    paths["calibration.path"] = sweep.calibration.path
    return ((field, path) for field, path in paths.items() if path is not None)

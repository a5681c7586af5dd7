"""What a machine of the cluster has, as it says itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU, as its driver describes it. What the driver does not say is None.

    Attributes:
        uuid: the driver's name of it, the same for every process.
        kind: product name, such as `NVIDIA H100 80GB HBM3`.
        memory_bytes: in all.
        capability: CUDA compute capability.
        power_limit_w: that it is held to.
        others: ids of processes that are on it, when nothing of ours is.
    """

    uuid: str
    kind: str | None
    memory_bytes: int | None
    capability: tuple[int, int] | None
    power_limit_w: float | None
    others: tuple[int, ...] | None = ()


@dataclass(frozen=True)
class Node:
    """One machine.

    Attributes:
        node_id: Ray's id of it.
        name: host name, as it stands in the rows.
        address: by which other nodes reach it.
        cpus: that Ray hands out.
        gpus_handed_out: that Ray hands out; those in `gpus` are what the driver reports.
        memory_bytes: of the machine.
        gpus: in the driver's order.
    """

    node_id: str
    name: str
    address: str
    cpus: float
    gpus_handed_out: float
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()


def lowest(capabilities: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    """CUDA compute capability that several GPUs all have; None without any, or if a driver does not say."""
    known = [capability for capability in capabilities if capability is not None]
    return min(known) if known and len(known) == len(capabilities) else None


def named(names: Sequence[str], gpus: Sequence[Gpu | None]) -> tuple[Gpu, ...]:
    """The GPUs that Ray and CUDA call so: by index in the driver's order, by UUID or by the beginning of one.

    None in `gpus` keeps the place of one that cannot be read.
    """
    found: list[Gpu | None] = []
    for name in map(str.strip, names):
        if name.isdecimal():
            found += gpus[int(name) : int(name) + 1]
        else:
            found += [gpu for gpu in gpus if gpu is not None and name and gpu.uuid.startswith(name)]
    return tuple(gpu for gpu in found if gpu is not None)

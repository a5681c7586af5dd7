"""The machines of the Ray cluster that this process has joined, as Ray and their drivers know them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.node import Gpu, Node
from cluster.node_report import gpus_handed_out

ANSWER_S: Final = 60.0
"""For a node to start a process that asks its driver."""


def members(known: Mapping[str, Node] | None = None) -> tuple[Node, ...]:
    """The nodes that are alive.

    Args:
        known: by Ray's id, nodes that have been described before and are not asked again.
    """
    known = known or {}
    rows = [row for row in ray.nodes() if row["Alive"]]
    hosts = Counter(row["NodeManagerHostname"] for row in rows)
    with_gpus = [row["NodeID"] for row in rows if row["Resources"].get("GPU") and row["NodeID"] not in known]
    gpus = _gpus_of(with_gpus)
    return tuple(
        known.get(row["NodeID"]) or _node(row, gpus.get(row["NodeID"], ()), hosts[row["NodeManagerHostname"]] > 1)
        for row in rows
    )


def _node(row: Mapping[str, Any], gpus: tuple[Gpu, ...], has_namesake: bool) -> Node:
    host, address, resources = row["NodeManagerHostname"], row["NodeManagerAddress"], row["Resources"]
    return Node(
        node_id=row["NodeID"],
        name=f"{host}-{address}" if has_namesake else host,
        address=address,
        cpus=resources.get("CPU", 0.0),
        gpus_handed_out=resources.get("GPU", 0.0),
        memory_bytes=int(resources.get("memory", 0)),
        gpus=gpus,
    )


def _gpus_of(node_ids: Collection[str]) -> dict[str, tuple[Gpu, ...]]:
    """By node; without those that do not answer."""
    asked = {
        _gpus_here.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(): node_id
        for node_id in node_ids
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    found = {}
    for answer in answered:
        try:
            found[asked[answer]] = ray.get(answer)
        except ray.exceptions.RayError:  # gone meanwhile
            continue
    return found


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _gpus_here() -> tuple[Gpu, ...]:
    return gpus_handed_out(by_ray=True)

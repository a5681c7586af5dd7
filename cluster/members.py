"""The machines of the Ray cluster that this process has joined, as Ray and their drivers know them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import ray

from cluster.calls import answers, on_each
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
    nodes = described_by_ray()
    unknown = [node.node_id for node in nodes if node.gpus_handed_out and node.node_id not in known]
    gpus = answers(on_each(unknown, _gpus_here), ANSWER_S)
    return tuple(known.get(node.node_id) or replace(node, gpus=gpus.get(node.node_id, ())) for node in nodes)


def described_by_ray() -> list[Node]:
    """The nodes that are alive, by name, with what Ray knows of them, which leaves their GPUs out."""
    alive = [row for row in ray.nodes() if row["Alive"]]
    names = names_of(alive)
    nodes = [
        Node(
            node_id=row["NodeID"],
            name=names[row["NodeID"]],
            address=row["NodeManagerAddress"],
            cpus=row["Resources"].get("CPU", 0.0),
            gpus_handed_out=row["Resources"].get("GPU", 0.0),
            memory_bytes=int(row["Resources"].get("memory", 0)),
        )
        for row in alive
    ]
    return sorted(nodes, key=lambda node: node.name)


def names_of(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names of nodes, by Ray's id, from what Ray says of them: host names, with the address where two are alike."""
    hosts = Counter(node["NodeManagerHostname"] for node in nodes)
    return {
        node["NodeID"]: host if hosts[host] == 1 else f"{host}-{node['NodeManagerAddress']}"
        for node in nodes
        for host in [node["NodeManagerHostname"]]
    }


def _gpus_here() -> tuple[Gpu, ...]:
    return gpus_handed_out(by_ray=True)

"""Which nodes are still there, found out by asking them: Ray itself takes its time to say that one is gone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ANSWER_S: Final = 20.0
"""A node on which nothing can be started for so long is gone."""


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _present() -> None:
    """Nothing: that it could be started is the answer."""


def absent(node_ids: Iterable[str]) -> list[str]:
    """Those of the nodes, by Ray's id, on which nothing can be started any more."""
    nodes = list(dict.fromkeys(node_ids))
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    asked = {
        node: _present.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
        if node in alive
    }
    answered, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    present = {node for node, answer in asked.items() if answer in answered and _answers(answer)}
    return [node for node in nodes if node not in present]


def _answers(answer: ray.ObjectRef) -> bool:
    try:
        ray.get(answer)
    except ray.exceptions.RayError:
        return False
    return True

"""Which nodes are still there, found out by asking them: Ray itself takes its time to say that one is gone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import ray

from cluster.calls import answers, on_each

ANSWER_S: Final = 20.0
"""A node on which nothing can be started for so long is gone."""


def _present() -> None:
    """Nothing: that it could be started is the answer."""


def absent(node_ids: Iterable[str]) -> list[str]:
    """Those of the nodes, by Ray's id, on which nothing can be started any more."""
    nodes = list(dict.fromkeys(node_ids))
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    present = answers(on_each([node for node in nodes if node in alive], _present), ANSWER_S)
    return [node for node in nodes if node not in present]

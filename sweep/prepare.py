"""What every node needs before stages start on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from energyaware.builtin_model import ensure_builtin_model

if TYPE_CHECKING:
    from rich.console import Console

    from sweep.plan import PlannedStage


def prepare_models(stages: Sequence[PlannedStage], node_ids: Sequence[str], console: Console) -> None:
    """Have the built-in base model in every node's cache before workers want it."""
    if not any(stage.spec.model.kind == "builtin" for stage in stages):
        return
    with console.status("looking for the built-in base model; the first time it is made, in about half a minute"):
        cpus = {node["NodeID"]: node["Resources"].get("CPU", 1) for node in ray.nodes()}
        ray.get(
            [
                # All of a node's CPUs: Ray gives a task as many threads as it holds CPUs.
                ray.remote(num_cpus=cpus[node])(ensure_builtin_model)
                .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
                .remote()
                for node in node_ids
            ]
        )

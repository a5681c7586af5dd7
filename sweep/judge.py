"""Who is ahead among the fine-tunings of a run, known in one place that all gangs ask (`energyaware.halving`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from energyaware.halving import Rungs, Verdict

if TYPE_CHECKING:
    from analysis.load import Results
    from energyaware.spec import FinetuneSpec
    from sweep.node_meter import Meter
    from sweep.plan import Plan
    from sweep.settings import Halving


@ray.remote(num_cpus=0)
class _Rungs:
    def __init__(self, eta: int, from_epoch: int, weight: float) -> None:
        self._rungs = Rungs(eta, from_epoch, weight)

    def judge(self, group: str, name: str, epoch: int, loss: float, energy_j: float | None) -> Verdict | None:
        return self._rungs.judge(group, name, epoch, loss, energy_j)


@dataclass(frozen=True)
class Judge:
    """As the first rank of one fine-tuning asks.

    Attributes:
        rungs: the actor that knows the others.
        meters: of the gang's nodes.
        group: what it is compared with.
        stage_id: its own.
        carried_j: joules of earlier attempts that it goes on from; None if they are not known.
    """

    rungs: Any
    meters: Sequence[Meter]
    group: str
    stage_id: str
    carried_j: float | None

    def __call__(self, epoch: int, loss: float) -> Verdict | None:
        """Whether it is to be stopped after an epoch with this validation loss. Nobody to ask: it goes on."""
        try:
            worked = [ray.get(meter.actor.now.remote())["worked"].get(self.stage_id) for meter in self.meters]
            parts = [self.carried_j, *worked]
            energy_j = None if any(part is None for part in parts) else sum(parts)
            verdict: Verdict | None = ray.get(self.rungs.judge.remote(self.group, self.stage_id, epoch, loss, energy_j))
        except ray.exceptions.RayError:
            return None
        return verdict


class Judges:
    """Made by the launcher, which also tells what fine-tunings of earlier runs had come to.

    Args:
        halving: how much is stopped, and from when on.
        weight: of energy against quality.
        plan: whose fine-tunings are compared.
        results: of earlier runs.
    """

    def __init__(self, halving: Halving, weight: float, plan: Plan, results: Results) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._rungs = _Rungs.options(scheduling_strategy=here).remote(  # type: ignore[attr-defined]
            halving.eta, halving.from_epoch, weight
        )
        groups = {stage.stage_id: group_of(stage.spec) for stage in plan if stage.spec.kind == "finetune"}
        for row in _earlier(results).iter_rows(named=True):
            if row["stage_id"] in groups:
                asked = groups[row["stage_id"]], row["stage_id"], row["epoch"], row["validation_loss"], row["so_far_j"]
                self._rungs.judge.remote(*asked)

    def of(self, stage_id: str, spec: FinetuneSpec, meters: Sequence[Meter], carried_j: float | None) -> Judge:
        """For one fine-tuning."""
        return Judge(self._rungs, tuple(meters), group_of(spec), stage_id, carried_j)


def group_of(spec: FinetuneSpec) -> str:
    """Losses and joules of other models, GPUs or seeds say nothing about it."""
    return "|".join(map(str, (spec.model.name, spec.model.revision, spec.gpu_kind, spec.seed)))


def _earlier(results: Results) -> pl.DataFrame:
    """Epochs of the latest attempts, with the joules up to the end of each."""
    latest = pl.col("attempt") == pl.col("attempt").max().over("stage_id")
    return (
        results.epochs.filter(latest, pl.col("validation_loss").is_not_null())
        .sort("stage_id", "epoch")
        .with_columns(so_far_j=pl.col("energy_j").cum_sum().over("stage_id"))
        .sort("epoch")
        .select("stage_id", "epoch", "validation_loss", "so_far_j")
        .collect()
    )

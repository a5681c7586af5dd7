"""Who is ahead among the fine-tunings of a run, known in one place that all gangs ask (`energyaware.halving`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from analysis.kinds import AROUND, of_results
from energyaware.checkpoint_store import last_committed
from energyaware.halving import Rungs, Verdict

if TYPE_CHECKING:
    from analysis.load import Results
    from energyaware.files import Files
    from energyaware.rows import Row
    from energyaware.spec import FinetuneSpec
    from sweep.node_meter import Meter
    from sweep.plan import Plan
    from sweep.settings import Halving

_EPOCH: Final = {"stage_id": pl.String, "epoch": pl.Int64, "validation_loss": pl.Float64}

_PART: Final = {
    "stage_id": pl.String, "attempt": pl.Int64, "part_from": pl.Int64, "part_to": pl.Int64, "newest": pl.Boolean
}  # fmt: skip
"""Of a training: optimizer steps of an attempt, and whether the checkpoint is its."""

_SPENT: Final = ["stage_id", "window", "epoch", "energy_j"]


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
        carried_j: joules of earlier attempts' training that it goes on from; None if they are not known. What they
            pruned it prunes again.
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
        files: of the same results, where interrupted fine-tunings have their checkpoints.
    """

    def __init__(self, halving: Halving, weight: float, plan: Plan, results: Results, files: Files) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._rungs = _Rungs.options(scheduling_strategy=here).remote(  # type: ignore[attr-defined]
            halving.eta, halving.from_epoch, weight
        )
        groups = {stage.stage_id: group_of(stage.spec) for stage in plan if stage.spec.kind == "finetune"}
        for stage_id, epoch, loss, energy_j in _earlier(results, files, groups).iter_rows():
            self._rungs.judge.remote(groups[stage_id], stage_id, epoch, loss, energy_j)

    def of(self, stage_id: str, spec: FinetuneSpec, meters: Sequence[Meter], carried_j: float | None) -> Judge:
        """For one fine-tuning."""
        return Judge(self._rungs, tuple(meters), group_of(spec), stage_id, carried_j)


def group_of(spec: FinetuneSpec) -> str:
    """Losses and joules of other models, GPUs or seeds say nothing about it."""
    return "|".join(map(str, (spec.model.name, spec.model.revision, spec.gpu_kind, spec.seed)))


def _earlier(results: Results, files: Files, stage_ids: Collection[str]) -> pl.DataFrame:
    """Epochs that fine-tunings had come to, with the joules up to the end of each; not those of which they are unknown.

    These are the joules that a `Judge` counts: of all work of the attempt that came to the epoch, its own pruning too,
    and of the training that it went on from.
    """
    asked = pl.col("stage_id").is_in(list(stage_ids))
    finished = results.stages.filter(asked)
    tried = results.attempts.filter(asked).join(finished, on="stage_id", how="anti").select("stage_id").unique()
    last = {each: found for each in tried.collect()["stage_id"] if (found := last_committed(files, each))}
    epochs = [
        results.epochs.join(finished, on=["stage_id", "attempt"], how="semi").select(list(_EPOCH)),
        pl.LazyFrame([{"stage_id": each} | row for each, found in last.items() for row in found["epochs"]], _EPOCH),
    ]
    spent = [of_results(results.energy, finished).select(_SPENT), _in_checkpoints(results, last).select(_SPENT)]
    work = ~pl.col("window").is_in(AROUND)
    before = pl.col("of_epoch").is_null() | (pl.col("of_epoch") <= pl.col("epoch"))
    unknown = pl.col("energy_j").fill_nan(None).null_count() > 0
    return (
        pl.concat(epochs)
        .filter(pl.col("validation_loss").is_not_null())
        .join(pl.concat(spent).filter(work).rename({"epoch": "of_epoch"}), on="stage_id")
        .filter(before)
        .group_by(list(_EPOCH))
        .agg(so_far_j=pl.when(~unknown).then(pl.sum("energy_j")))
        .filter(pl.col("so_far_j").is_not_null())
        .sort("epoch", "stage_id")
        .collect()
    )


def _in_checkpoints(results: Results, last: Mapping[str, Row]) -> pl.LazyFrame:
    """Rows of energy of what the last checkpoints hold, and of all else that the attempts worked that left them."""
    parts = [(each, *part, part == found["attempts"][-1]) for each, found in last.items() for part in found["attempts"]]
    at, begin, end = pl.col("from_step"), pl.col("part_from"), pl.col("part_to")
    trained = (pl.col("window") == "train") & (begin <= at) & (at < end)
    evaluated = (pl.col("window") == "evaluate") & (begin < at) & (at <= end)
    return results.energy.join(pl.LazyFrame(parts, _PART, orient="row"), on=["stage_id", "attempt"]).filter(
        trained | evaluated | (pl.col("newest") & pl.col("epoch").is_null())
    )

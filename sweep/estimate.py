"""What is left of a sweep will probably take: joules, GPU-hours, time, money and carbon, before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from analysis.budget import SECONDS_PER_HOUR, Caps, CapUse, Spending, spending, uses
from analysis.estimate import Effort, Estimate, Estimates, estimates
from analysis.printing import JOULES_PER_KWH, number
from analysis.status import clock, counted
from cluster.local_node import local_node
from energyaware.errors import InputError
from sweep.funnel import held_back
from sweep.placement import Need, place
from sweep.totals import known_sum

if TYPE_CHECKING:
    from analysis.load import Results
    from sweep.config import Sweep
    from sweep.plan import PlannedStage

KINDS = {"finetune": "fine-tuning", "inference": "inference"}


@dataclass(frozen=True)
class Forecast:
    """An estimate for stages that are to run. Sums are over those that can be estimated.

    Attributes:
        stages: how many are to run.
        at_most: whether a funnel has yet to choose which of them it runs; sums are over all of them then.
        unknown: of these, how many of each kind cannot be estimated: no earlier stage of the kind has finished.
        rests_on: finished stages that the estimate rests on.
        same_kind_only: stages that are estimated from stages of their kind alone, whose settings are others.
        effort: of the stages one after another.
        wall_s: time from start to end; None where that is not known, as of a cluster.
        at_once: stages that run beside each other, for wall_s; None likewise.
        cost: None without a price.
        currency: of cost.
        carbon_g: g CO2e; None without a factor.
        of_stage: by stage id.
        budget: what earlier runs have used of each cap.
    """

    stages: int
    at_most: bool
    unknown: dict[str, int]
    rests_on: int
    same_kind_only: int
    effort: Effort
    wall_s: float | None
    at_once: int | None
    cost: float | None
    currency: str | None
    carbon_g: float | None
    of_stage: dict[str, Estimate]
    budget: list[CapUse]

    def lines(self) -> list[str]:
        """For people."""
        lines = [self._line()] if self.stages else []
        if self.budget:
            lines.append(f"budget used: {', '.join(cap.line() for cap in self.budget)}")
        return lines

    def _line(self) -> str:
        known = self.stages - sum(self.unknown.values())
        stages = ("at most " if self.at_most else "") + counted(self.stages, "stage")
        if not known:
            return f"estimate for {stages}: unknown: no earlier stages"
        energy_j, gpu_s, duration_s = self.effort.energy_j, self.effort.gpu_s, self.effort.duration_s
        parts = [] if energy_j is None else [f"{number(energy_j)} J = {number(energy_j / JOULES_PER_KWH)} kWh"]
        parts += [f"{number(gpu_s / SECONDS_PER_HOUR)} GPU-hours"] if gpu_s else []
        if self.wall_s is not None and self.at_once is not None:
            parts.append(f"{clock(self.wall_s)} with {self.at_once} at once")
        elif duration_s is not None:
            parts.append(f"{clock(duration_s)} one after another")
        parts += [] if self.cost is None else [f"{number(self.cost)} {self.currency or 'of money'}"]
        parts += [] if self.carbon_g is None else [f"{number(self.carbon_g)} g CO2e"]
        of = f"{known} of {stages}" if self.unknown else stages
        others = f", {self.same_kind_only} of them by kind alone" if self.same_kind_only else ""
        line = f"estimate for {of}, from {self.rests_on} finished{others}: {', '.join(parts)}"
        missing = " and ".join(counted(count, KINDS[kind]) for kind, count in self.unknown.items())
        return line + (f"; {missing} unknown: no earlier ones" if missing else "")

    def as_dict(self) -> dict[str, Any]:
        """For programs: the fields, `effort` and `budget` as objects."""
        content = asdict(self)
        del content["of_stage"]
        return content


def forecast(sweep: Sweep, stages: Sequence[PlannedStage], earlier: Results | None, at_once: int | None) -> Forecast:
    """What these stages will take.

    Args:
        sweep: what they belong to.
        stages: to run.
        earlier: results that there are; None without any.
        at_once: how many run beside each other; None where that is not known.
    """
    learnt = Estimates() if earlier is None else estimates(earlier)
    spent = Spending() if earlier is None else spending(earlier)
    carbon_g_per_kwh = _carbon_g_per_kwh(sweep, earlier)
    asked = {stage.stage_id: learnt.of(stage.row()) if learnt.knows(stage.spec.kind) else None for stage in stages}
    known = {stage_id: estimate for stage_id, estimate in asked.items() if estimate is not None}
    effort = _sum([estimate.effort for estimate in known.values()])
    caps = Caps.of_sweep(sweep.model_dump(mode="json"))
    kwh = None if effort.energy_j is None or not known else effort.energy_j / JOULES_PER_KWH
    complete = known and len(known) == len(asked) and effort.duration_s is not None
    held = held_back(sweep.strategy, stages)
    return Forecast(
        stages=len(stages),
        at_most=0 < len(held) < len(stages),
        unknown=dict(Counter(stage.spec.kind for stage in stages if asked[stage.stage_id] is None)),
        rests_on=len({stage_id for group in {e.stages for e in known.values()} for stage_id in group}),
        same_kind_only=sum(not estimate.alike for estimate in known.values()),
        effort=effort,
        wall_s=_wall_s(stages, known, at_once) if complete and at_once else None,
        at_once=at_once,
        cost=None if kwh is None or caps.cost_per_kwh is None else kwh * caps.cost_per_kwh,
        currency=caps.currency,
        carbon_g=None if kwh is None or carbon_g_per_kwh is None else kwh * carbon_g_per_kwh,
        of_stage=known,
        budget=uses(caps, spent.effort),
    )


def earlier(url: str) -> Results | None:
    """The results that there are of earlier runs; None without any."""
    from analysis.load import load

    try:
        return load(url)
    except InputError:
        return None


def at_once_here(sweep: Sweep, gpus_per_worker: int) -> int:
    """How many stages this machine runs beside each other, at least 1; the largest stages count."""
    resources, here = sweep.resources, local_node()
    workers = max(resources.workers_of("finetune"), resources.workers_of("inference"))
    whole = resources.exclusive == "node"
    found = place(Need(workers, resources.cpus_per_worker, gpus_per_worker, whole_nodes=whole), [here])
    return found.at_once([here]) if found else 1


def _wall_s(stages: Iterable[PlannedStage], known: dict[str, Estimate], at_once: int) -> float:
    """Work divided by places, or the longest chain of stages where that takes longer."""
    took = {stage_id: estimate.effort.duration_s or 0.0 for stage_id, estimate in known.items()}
    chains = (took[stage.stage_id] + sum(took.get(need, 0.0) for need in stage.spec.needs) for stage in stages)
    return max(sum(took.values()) / at_once, max(chains, default=0.0))


def _sum(efforts: Collection[Effort]) -> Effort:
    """Each part; None if it is unknown of any."""
    return Effort(
        known_sum(effort.energy_j for effort in efforts),
        known_sum(effort.gpu_s for effort in efforts),
        known_sum(effort.duration_s for effort in efforts),
    )


def _carbon_g_per_kwh(sweep: Sweep, earlier: Results | None) -> float | None:
    """As the sweep gives it, else as the last stage that finished there was charged with; PUE applied."""
    asked = sweep.energy
    if asked.carbon_g_per_kwh is not None:
        return asked.carbon_g_per_kwh * asked.pue
    if earlier is None or asked.country is None:
        return None
    where = asked.country if asked.region is None else f"{asked.country}, {asked.region}"
    there = pl.col("carbon_source").str.ends_with(f": {where}") & (pl.col("pue") == asked.pue)
    charged = earlier.stages.filter(there).sort("finished_at").select("carbon_g_per_kwh").drop_nulls().last().collect()
    return None if charged.is_empty() else float(charged.item())

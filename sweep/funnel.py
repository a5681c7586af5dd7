"""The funnel: every precision is measured without pruning first, and prunings are tried on the best of them alone.

A precision that is poor when dense is taken to be poor when pruned, too. That is an assumption: what it cost can be
seen by asking for the grid in the same results folder, which then runs what was skipped.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from analysis.ranking import left_out, ranking
from energyaware.errors import InputError
from energyaware.spec import InferenceSpec
from sweep.left import left_of

if TYPE_CHECKING:
    from analysis.load import Results
    from energyaware.spec import ModelRef, StageSpec
    from sweep.config import Sweep
    from sweep.left import Left, Wish
    from sweep.plan import Plan, PlannedStage
    from sweep.settings import Strategy

Group = tuple["ModelRef", str | None]
"""What is chosen within: a model on a kind of GPU."""

Precision = tuple[str, str]
"""Of fine-tuning and of inference."""


def held_back(strategy: Strategy, stages: Iterable[PlannedStage]) -> frozenset[str]:
    """Ids of the stages that wait until all others have ended; none in a grid."""
    if strategy.kind == "grid":
        return frozenset()
    return frozenset(stage.stage_id for stage in stages if stage.spec.pruning.kind != "none")


def left_of_rounds(
    sweep: Sweep, plan: Plan, results: Results, now: Mapping[str, str], wish: Wish
) -> tuple[Plan, Left, frozenset[str]]:
    """What is left, with the plan that says what was skipped, and the ids of the stages that are still held back.

    The arguments are those of `sweep.left.left_of`.

    Raises:
        InputError: as `narrowed`.
    """
    look = partial(left_of, results=results, now=now, wish=wish, halving=sweep.halving is not None)
    left, held = look(plan), held_back(sweep.strategy, plan)
    if not held or not held.issuperset(stage.stage_id for stage in left.stages):
        return plan, left, held
    plan = narrowed(sweep, plan, results)
    return plan, look(plan), frozenset()


def narrowed(sweep: Sweep, plan: Plan, results: Results) -> Plan:
    """The plan, in which prunings of precisions that are not among the best are skipped, each with the reason.

    Precisions are ranked without pruning, as `energyaware rank` would, per model and kind of GPU. Those that tie with
    the last one kept are kept. One that cannot be ranked, since it failed, is not. What has a result is never skipped.

    Args:
        sweep: how to rank, and how many to keep.
        plan: of the grid.
        results: in which all stages without pruning have ended.

    Raises:
        InputError: their energies cannot be compared, or none of those that finished can be ranked.
    """
    held = held_back(sweep.strategy, plan)
    finished = set(results.stages.select("stage_id").collect()["stage_id"])
    pruned = {s.stage_id: s.spec for s in plan if s.stage_id in held and isinstance(s.spec, InferenceSpec)}
    undecided = {_group(spec) for stage_id, spec in pruned.items() if stage_id not in finished}
    places = _places(sweep, plan, results, undecided)
    reasons = {}
    wanted = set[str]()
    for stage_id, spec in pruned.items():
        reason = None if stage_id in finished else places[_group(spec)].why_not(spec)
        if reason:
            reasons[stage_id] = reason
        else:
            wanted.update(spec.needs)
    needed_by = {need: reason for stage in plan if (reason := reasons.get(stage.stage_id)) for need in stage.spec.needs}
    unneeded = held & needed_by.keys() - wanted - finished
    return plan.skipping(reasons | {stage_id: needed_by[stage_id] for stage_id in unneeded})


class _Places:
    """The precisions of a group by their rank without pruning."""

    def __init__(self, keep: int, ranked: list[tuple[int, Precision]], of: int) -> None:
        self._keep, self._of, self._ranks = keep, of, {precision: rank for rank, precision in ranked}
        self._last = ranked[min(keep, len(ranked)) - 1][0] if ranked else 0

    def why_not(self, spec: InferenceSpec) -> str | None:
        """Why prunings of it are not tried; None if they are."""
        rank = self._ranks.get(_precision(spec))
        if rank is None:
            return "funnel: without pruning it has no rank"
        if rank <= self._last:
            return None
        return f"funnel: without pruning it is number {rank} of {self._of}, and the best {self._keep} go on"


def _places(sweep: Sweep, plan: Plan, results: Results, groups: Collection[Group]) -> dict[Group, _Places]:
    dense: dict[Group, dict[str, Precision]] = defaultdict(dict)
    for stage in plan:
        if isinstance(stage.spec, InferenceSpec):
            of_group = dense[_group(stage.spec)]
            if stage.spec.pruning.kind == "none":
                of_group[stage.stage_id] = _precision(stage.spec)
    return {group: _ranked(sweep, dense[group], results) for group in groups}


def _ranked(sweep: Sweep, stages: dict[str, Precision], results: Results) -> _Places:
    options: dict[str, Any] = sweep.ranking.model_dump()
    alone = replace(results, plan=results.plan.filter(pl.col("stage_id").is_in(list(stages))), has_plan=True)
    rows = ranking(alone, **options).select("rank", "stage_ids").collect()
    ranked = [
        (rank, next(stages[stage_id] for stage_id in stage_ids if stage_id in stages))
        for rank, stage_ids in rows.iter_rows()
    ]
    if not ranked and (problem := _lacking(sweep, alone)):
        told = f"nothing without pruning can be ranked: {problem}; strategy grid needs no rank"
        raise InputError("strategy", "funnel", told)
    return _Places(sweep.strategy.keep, ranked, len(set(stages.values())))


def _lacking(sweep: Sweep, alone: Results) -> str | None:
    """What most of the finished stages lack for a rank; None if none of them lacks anything, or none has finished."""
    rows = left_out(alone, metric=sweep.ranking.metric).filter(state="incomplete").collect()
    return Counter(rows["reason"]).most_common(1)[0][0] if rows.height else None


def _group(spec: StageSpec) -> Group:
    return spec.model, spec.gpu_kind


def _precision(spec: InferenceSpec) -> Precision:
    return spec.finetune_precision, spec.precision

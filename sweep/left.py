"""What is left of a sweep: what has no result yet, and what is to be tried or measured again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from sweep.tries import Tries

if TYPE_CHECKING:
    from analysis.load import Results
    from energyaware.rows import Row
    from sweep.plan import Plan, PlannedStage

STOPPED: Final = "stopped"
"""End of a fine-tuning that others were ahead of; it is tried again only where nobody is stopped any more."""

HOPELESS: Final = ("failed", "diverged", "oom")
"""Ends of a stage that another run does not change by itself."""

IDLE_POWER_HOLDS: Final = timedelta(days=1)
"""A machine that was read so long ago at most draws as much when idle."""


@dataclass(frozen=True)
class Wish:
    """What a run is asked to do besides what has not run yet.

    Attributes:
        retry_failed: try again what failed, diverged or ran out of memory.
        rerun_changed: measure again what was measured with other code or library versions.
    """

    retry_failed: bool = False
    rerun_changed: bool = False

    def options(self) -> list[str]:
        """As they are typed on the command line."""
        asked = {"--retry-failed": self.retry_failed, "--rerun-changed": self.rerun_changed}
        return [option for option, wanted in asked.items() if wanted]


@dataclass(frozen=True)
class Left:
    """What a run has to do.

    Attributes:
        tries: stages to run, in the order of the plan.
        again: those of them that have a result, which is to be replaced.
        failed: stages that failed in earlier runs and are left alone: stage id, state and reason of each.
        changed: what finished stages were measured with that is other now, one line for each difference.
    """

    tries: tuple[Tries, ...]
    again: frozenset[str]
    failed: tuple[Row, ...]
    changed: tuple[str, ...]

    @property
    def stages(self) -> tuple[PlannedStage, ...]:
        """Those to run."""
        return tuple(tries.stage for tries in self.tries)


def left_of(plan: Plan, results: Results, now: Mapping[str, str], wish: Wish, *, halving: bool = False) -> Left:
    """What is left of a plan.

    Args:
        plan: what is asked for.
        results: what is there.
        now: versions that a stage would be measured with now (`energyaware.versions`).
        wish: what to run besides.
        halving: whether fine-tunings that others are ahead of are stopped.
    """
    finished = {row["stage_id"]: row for row in _finished(results).to_dicts()}
    last = {row["stage_id"]: row for row in _last_attempts(results).to_dicts()}
    asked = [stage for stage in plan if stage.state == "planned"]
    differing = {
        stage.stage_id: differences(row["versions"], now) + _fine_tuned_anew(stage, finished)
        for stage in asked
        if (row := finished.get(stage.stage_id))
    }
    again = _again(asked, {stage_id for stage_id, found in differing.items() if found}) if wish.rerun_changed else set()
    hopeless = {
        stage.stage_id: before
        for stage in asked
        if not wish.retry_failed
        and stage.stage_id not in finished
        and (before := last.get(stage.stage_id))
        and before["state"] in HOPELESS
    }
    stopped = {name for name, before in last.items() if halving and before["state"] == STOPPED} - finished.keys()
    ended = hopeless.keys() | stopped
    stages = plan.minus((finished.keys() - again) | ended)
    return Left(
        tuple(_tries(stage, last.get(stage.stage_id)) for stage in stages if ended.isdisjoint(stage.spec.needs)),
        frozenset(again),
        tuple(hopeless.values()),
        () if wish.rerun_changed else _told(differing),
    )


def _again(asked: list[PlannedStage], changed: set[str]) -> set[str]:
    """With what was measured on a fine-tuning that is made again: it would stand for one that is no more."""
    return changed | {stage.stage_id for stage in asked if changed.intersection(stage.spec.needs)}


def _fine_tuned_anew(stage: PlannedStage, finished: Mapping[str, Row]) -> tuple[str, ...]:
    """Says so where a stage was measured on a fine-tuning that is no more: a run may end between the two.

    Starts are compared, a whole fine-tuning apart, as nodes' clocks differ a little. A start that is not known is not.
    """
    began = finished[stage.stage_id]["started_at"]
    made = [finished[need]["started_at"] for need in stage.spec.needs if need in finished]
    later = began and any(start and start > began for start in made)
    return ("fine-tuned anew since",) if later else ()


def _tries(stage: PlannedStage, before: Row | None) -> Tries:
    """The next attempt at a stage; one that was interrupted after running out of memory goes on with less."""
    if before is None:
        return Tries(stage, 1)
    return Tries(stage, before["attempt"] + 1, before["micro_batch_size"] if before["state"] == "interrupted" else None)


def _finished(results: Results) -> pl.DataFrame:
    return results.stages.select("stage_id", "versions", "started_at").collect()


def _last_attempts(results: Results) -> pl.DataFrame:
    columns = ["stage_id", "attempt", "state", "reason", "micro_batch_size"]
    return (
        results.attempts.select(columns).sort("attempt").unique("stage_id", keep="last", maintain_order=True).collect()
    )


def differences(then: str | None, now: Mapping[str, str]) -> tuple[str, ...]:
    """What is other now than in the versions of a stage's row, such as `torch 2.12.1, now 2.13.0`.

    What the row does not name is not compared, nor what this machine lacks: earlier releases named less.
    """
    before: dict[str, str] = json.loads(then) if then else {}
    return tuple(
        f"{name} {before[name]}, now {now[name]}" for name in before if name in now and before[name] != now[name]
    )


def idle_rows(results: Results) -> list[Row]:
    """Rows that tell the nodes' idle power, of runs of the last day: a run that goes on need not wait for it again."""
    since = datetime.now(UTC) - IDLE_POWER_HOLDS
    recent = results.nodes.filter(pl.col("idle_power_w").is_not_null(), pl.col("started_at") > since)
    latest = recent.sort("started_at").unique(["node", "component", "device", "source"], keep="last")
    return latest.collect().to_dicts()


def _told(differing: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    stages = Counter(found for each in differing.values() for found in each)
    return tuple(f"{count} finished stage{'s' if count > 1 else ''}: {found}" for found, count in stages.items())

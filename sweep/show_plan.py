"""A plan as people and as programs read it."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import polars as pl
from rich.console import Group
from rich.table import Table
from rich.text import Text

from analysis.estimate import Estimate
from analysis.load import Results
from analysis.schema import schema
from analysis.states import LEFT, ON_ITS_WAY, states
from sweep.config import Sweep
from sweep.estimate import Forecast
from sweep.funnel import held_back
from sweep.left import Left
from sweep.plan import Plan, PlannedStage

Ended = Mapping[str, tuple[str, str]]
"""State and reason of stages that no run starts by itself, by stage id."""

NOTHING: Final[Ended] = {}

STYLES: Final = {"planned": "", "finished": "green", "infeasible": "yellow", "skipped": "dim", "stopped": "yellow"}
"""Of states, for a terminal; failures are red."""

_NOT_ENDED: Final = ["finished", "infeasible", "skipped", *LEFT, *ON_ITS_WAY]


def not_run(plan: Plan, left: Left, results: Results) -> dict[str, tuple[str, str]]:
    """State and reason, as `energyaware status` tells them, of what ended in earlier runs and a run leaves alone."""
    rows = pl.LazyFrame([stage.row() for stage in plan], schema("plan"))
    to_run = {stage.stage_id for stage in left.stages}
    ended = states(replace(results, plan=rows, has_plan=True)).filter(~pl.col("state").is_in(_NOT_ENDED)).collect()
    told = ended.select("stage_id", "state", "reason").iter_rows()
    return {stage_id: (state, reason) for stage_id, state, reason in told if stage_id not in to_run}


def as_json(
    sweep: Sweep, plan: Plan, finished: Collection[str], ahead: Forecast | None = None, ended: Ended = NOTHING
) -> str:
    """Stages with id, kind, needs, settings, state, reason and estimate.

    The state is planned, finished, infeasible or skipped, or what `not_run` says in `ended`. And `estimate` for all
    that are left, where it is given; null is unknown.
    """
    of_stage = ahead.of_stage if ahead else {}
    stages = [
        {
            "id": stage.stage_id,
            "kind": stage.spec.kind,
            "needs": list(stage.spec.needs),
            "settings": json.loads(stage.row()["settings"]),
            "state": (told := _state(stage, finished, ended))[0],
            "reason": told[1],
            "estimate": _estimate(of_stage.get(stage.stage_id)),
        }
        for stage in plan
    ]
    content = {
        "sweep": sweep.name,
        "trials": plan.trials,
        "estimate": ahead.as_dict() if ahead else None,
        "stages": stages,
    }
    return json.dumps(content, indent=2)


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return asdict(estimate.effort) | {"from_stages": len(estimate.stages), "by_kind_alone": not estimate.alike}


def as_table(
    sweep: Sweep, plan: Plan, finished: Collection[str], ahead: Forecast | None = None, ended: Ended = NOTHING
) -> Group:
    """For a terminal: one line per stage, and above it what sharing saves and what is left will take."""
    headings, rows = _cells(plan, finished, ended)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for name in headings:
        table.add_column(name, no_wrap=name != "state", overflow="fold")
    for stage, cells in zip(plan, rows, strict=True):
        *others, state = map(Text, cells)
        state.stylize(STYLES.get(_state(stage, finished, ended)[0], "red"))
        table.add_row(*others, state)
    return Group(*map(Text, _above(sweep, plan, finished, ahead, ended)), table)


def as_text(
    sweep: Sweep, plan: Plan, finished: Collection[str], ahead: Forecast | None = None, ended: Ended = NOTHING
) -> str:
    """The same for a file or a pipe: lines as long as they are, and ten thousand of them at once."""
    headings, rows = _cells(plan, finished, ended)
    lines = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (" ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return "\n".join([*_above(sweep, plan, finished, ahead, ended), *padded])


def _above(sweep: Sweep, plan: Plan, finished: Collection[str], ahead: Forecast | None, ended: Ended) -> list[str]:
    return [_summary(sweep, plan, finished, ended), *(ahead.lines() if ahead else ())]


def _cells(plan: Plan, finished: Collection[str], ended: Ended) -> tuple[list[str], list[list[str]]]:
    """Headings, and the cells of each stage's line, the state last."""
    columns: dict[str, Callable[[PlannedStage], str]] = {
        "stage": lambda stage: stage.stage_id,
        "kind": lambda stage: stage.spec.kind,
        "model": lambda stage: stage.spec.model.name,
        "precision": lambda stage: stage.precisions,
        "pruning": lambda stage: " ".join(filter(None, (stage.spec.pruning.label, stage.spec.pruning.applied))),
        "seed": lambda stage: str(stage.spec.seed),
        "needs": lambda stage: " ".join(stage.spec.needs),
    }
    for axis in ("model", "seed"):  # what is the same in all lines says nothing in a line
        if len({columns[axis](stage) for stage in plan}) == 1:
            del columns[axis]
    columns["state"] = lambda stage: ": ".join(filter(None, _state(stage, finished, ended)))
    return list(columns), [[cell(stage) for cell in columns.values()] for stage in plan]


def _summary(sweep: Sweep, plan: Plan, finished: Collection[str], ended: Ended) -> str:
    finetunings = sum(stage.spec.kind == "finetune" for stage in plan)
    inferences = len(plan) - finetunings
    infeasible = sum(stage.state == "infeasible" for stage in plan)
    done = sum(stage.stage_id in finished for stage in plan)
    shared = sum(1 for stage in plan if stage.spec.kind == "inference" and stage.spec.needs) - finetunings
    saved = f" (sharing saves {shared})" if shared > 0 else ""
    parts = [
        f"{sweep.name}: {plan.trials} trials",
        f"{finetunings} fine-tuning{'' if finetunings == 1 else 's'}{saved}",
        f"{inferences} inference stages",
    ]
    parts += [f"{done} done"] if done else []
    parts += [f"{count} {state}" for state, count in sorted(Counter(state for state, _ in ended.values()).items())]
    parts += [f"{infeasible} infeasible"] if infeasible else []
    parts += [_of_funnel(sweep, plan, {*finished, *ended})] if sweep.strategy.kind == "funnel" else []
    return ", ".join(parts)


def _of_funnel(sweep: Sweep, plan: Plan, ended: Collection[str]) -> str:
    """How many stages wait for the best precisions to be known, or were skipped since."""
    if skipped := sum(stage.state == "skipped" for stage in plan):
        return f"{skipped} skipped by the funnel"
    held = len({stage.stage_id for stage in plan.minus(ended)} & held_back(sweep.strategy, plan))
    return f"{held} that the funnel runs for the best {sweep.strategy.keep} precisions alone"


def _state(stage: PlannedStage, finished: Collection[str], ended: Ended) -> tuple[str, str | None]:
    """And the reason, where there is one."""
    if stage.stage_id in finished:
        return "finished", stage.reason
    return ended.get(stage.stage_id, (stage.state, stage.reason))

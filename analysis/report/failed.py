"""What failed, what was left out, and why."""

from typing import Final

import polars as pl

from analysis.labels import both_precisions
from analysis.load import Results
from analysis.report.table import Column, Table, cell, table_of
from analysis.status import STATES, Status

_TRIES: Final = ["failed", "diverged", "oom", "interrupted"]
"""States of attempts that ended without a result."""

_ATTEMPTS: Final = 500
"""Attempts that are listed; more are counted."""


def progress(status: Status) -> str | None:
    """How far the sweep is, in words; None once nothing of it is left to do."""
    done, asked = finished_of(status)
    stages = f"{done:,} of {asked:,} stages are finished"
    if status.running or status.held_by:
        return f"The sweep is running: {stages}. What stands here is what is known so far."
    if status.stopped_by_budget:
        return f"The sweep stopped at its budget: {stages}. {status.stopped_by_budget}"
    if status.left:
        return f"The sweep is not at its end: {stages}, {status.left:,} are left. The same command goes on from here."
    if asked and not done:
        return "No stage is finished, and nothing is left to do: see below what failed, and why."
    return None


def finished_of(status: Status) -> tuple[int, int]:
    """Stages that are finished, and all that are asked for."""
    return (
        sum(states.get("finished", 0) for states in status.counts.values()),
        sum(sum(states.values()) for states in status.counts.values()),
    )


def stages_by_state(status: Status) -> Table:
    """How many stages of each kind came to which end."""
    kinds = status.counts.values()
    named = dict.fromkeys([*STATES, *(state for states in kinds for state in states)])
    shown = [state for state in named if any(states.get(state) for states in kinds)]
    rows = [[cell(kind), *(cell(states.get(state, 0)) for state in shown)] for kind, states in status.counts.items()]
    columns = [Column("stages"), *(Column(state, numeric=True) for state in shown)]
    return Table("states", "Stages that are asked for, by what became of them", columns, rows)


def left_out_table(left_out: pl.DataFrame) -> Table | None:
    """Who is not in the ranking, and why; None where everybody is."""
    if left_out.is_empty():
        return None
    shown = left_out.with_columns(both_precisions())
    headings: dict[str, str | Column] = {"precision": "precision", "pruning": "pruning", "pruning_applied": "applied"}
    if left_out["model"].n_unique() > 1:
        headings["model"] = "model"
    headings |= {"seed": "seed", "state": "state", "reason": Column("why", wide=True), "stage_id": "stage"}
    return table_of(shown, "left-out", "Not in the ranking, and why", headings)


def attempts_table(results: Results) -> Table | None:
    """Attempts that ended without a result; None where none did."""
    ended = results.attempts.filter(pl.col("state").is_in(_TRIES))
    named = results.plan.select("stage_id", "precision", "pruning").unique("stage_id")
    shown = ended.join(named, on="stage_id", how="left").sort("started_at", "stage_id", "attempt").collect()
    if shown.is_empty():
        return None
    headings: dict[str, str | Column] = {
        "stage_id": "stage",
        "kind": "kind",
        "precision": "precision",
        "pruning": "pruning",
        "attempt": Column("attempt", numeric=True),
        "state": "state",
        "reason": Column("why", wide=True),
        "energy_j": Column(
            "J", "joules of its windows; lost, but those that a later attempt went on from", numeric=True
        ),
        "duration_s": Column("s", numeric=True),
    }
    return table_of(shown, "attempts", "Attempts that ended without a result", headings, most=_ATTEMPTS)

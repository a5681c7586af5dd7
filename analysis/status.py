"""How far a sweep is: stages by state, joules and time spent, what is left."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analysis.budget import CapUse, standing
from analysis.kinds import MIXED
from analysis.load import Results
from analysis.nodes import Node, add_up
from analysis.printing import number, plain, share, to_json
from analysis.running import Running, checkpoint_step, running
from analysis.skipped import skipped
from analysis.spent import carried, finished_before, spent
from analysis.states import LEFT, NO_FAILURE, states
from analysis.versions import differences, in_words

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

STATES: Final = [
    *["finished", "running", "failed", "diverged", "oom", "interrupted", "blocked", "infeasible", "stopped"],
    *["skipped", "pending"],
]

_ALWAYS_SHOWN: Final = ["finished", "pending"]
"""Columns of the count table even where no stage is in that state."""


@dataclass(frozen=True)
class Status:
    """How far a sweep is. Stages are those asked for; joules and seconds are all that the folder holds.

    Attributes:
        counts: stages by kind and state, the usual states always present.
        failed: stages without a result that the next run does not simply go on with, one dict each.
        left: stages that the next run goes on with: pending and interrupted ones.
        time_left_s: left stages one after another, each at the median time of the finished ones of its kind;
            None where a kind has none finished yet.
        running: attempts at work.
        held_by: the run that writes to the folder now, in words; None if none does.
        useful_energy_j: known joules of what became a result, around its windows too; None if none is known.
        running_energy_j: known joules so far of attempts that are at work: neither useful nor lost yet.
        checkpointed_energy_j: known joules of interrupted attempts that a checkpoint holds for the next one: likewise.
        lost_energy_j: known joules of all other attempts, those aside that are carried into a result.
        lost_attempts: how many those are.
        lost_share: their part of the known joules of all attempts; None where those are unknown or 0.
        carried_energy_j: known joules of earlier attempts that results went on from; part of the useful ones.
        carried_attempts: how many those attempts are.
        saved_energy_j: what resuming saved, each joule counted once: carried joules, and those of stages that were
            finished in an earlier run than the latest.
        saved_stages: how many those stages are.
        skipped_stages: how many a funnel found not worth running.
        skipped_energy_j: joules that they would have taken, estimated from finished ones; None where these cannot tell.
        measured_energy_j: the part of the joules of all attempts in windows that hardware measured.
        estimated_energy_j: the part in windows that a model estimated.
        idle_energy_j: known joules of nodes while no stage held them; None without any such row.
        unattributed_energy_j: known joules of nodes for processes of no stage; likewise.
        unknown_energy_attempts: attempts whose joules are not known; they are in none of the sums.
        energy: measured, estimated or mixed; None without any attempt.
        nodes: how each node's joules add up.
        duration_s: wall time of all attempts, added up.
        budget: what is used of each cap of the sweep file.
        stopped_by_budget: why no run would start anything more, in words; None if one would, or while one is at work.
        versions: which versions finished stages were measured with, where these differ; else None.
        problems: files of the folder that were skipped.
    """

    counts: dict[str, dict[str, int]]
    failed: list[dict[str, Any]]
    left: int
    time_left_s: float | None
    running: list[Running]
    held_by: str | None
    useful_energy_j: float | None
    running_energy_j: float | None
    checkpointed_energy_j: float | None
    lost_energy_j: float | None
    lost_attempts: int
    lost_share: float | None
    carried_energy_j: float
    carried_attempts: int
    saved_energy_j: float
    saved_stages: int
    skipped_stages: int
    skipped_energy_j: float | None
    measured_energy_j: float | None
    estimated_energy_j: float | None
    idle_energy_j: float | None
    unattributed_energy_j: float | None
    unknown_energy_attempts: int
    energy: str | None
    nodes: list[Node]
    duration_s: float
    budget: list[CapUse]
    stopped_by_budget: str | None
    versions: str | None
    problems: list[str]


def status(results: Results) -> Status:
    """How far the sweep of a results folder is."""
    stages, durations, joules, of_no_stage, nodes, at_work, resumed, reused = pl.collect_all(
        [
            *(states(results), _median_durations(results), spent(results), _of_no_stage(results), results.nodes),
            *(running(results), carried(results), finished_before(results)),
        ]
    )
    by_fate = {fate: _known_sum(joules.filter(fate=fate)["energy_j"]) for fate in ("useful", "running", "lost")}
    known = joules.filter(pl.col("energy_j").is_not_null())
    total_j = float(known["energy_j"].sum()) + float(known["checkpointed_j"].sum())
    left = stages.filter(pl.col("state").is_in(LEFT))
    carried_j = float(resumed["carried_energy_j"].sum())
    budget, passed_over = standing(results, stages), skipped(results, stages)
    return Status(
        counts=_counts(stages),
        failed=stages.filter(~pl.col("state").is_in(NO_FAILURE))
        .select("stage_id", "kind", "precision", "pruning", "pruning_applied", "seed", "state", "reason")
        .to_dicts(),
        left=left.height,
        time_left_s=_time_left_s(left, durations),
        running=[
            Running(**row, checkpoint_step=checkpoint_step(results.folder, row["stage_id"]))
            for row in at_work.to_dicts()
        ],
        held_by=results.held_by,
        useful_energy_j=by_fate["useful"],
        running_energy_j=by_fate["running"],
        checkpointed_energy_j=_known_sum(joules["checkpointed_j"]),
        lost_energy_j=by_fate["lost"],
        lost_attempts=joules.filter(fate="lost").height,
        lost_share=by_fate["lost"] / total_j if total_j > 0 and by_fate["lost"] is not None else None,
        carried_energy_j=carried_j,
        carried_attempts=resumed.height,
        saved_energy_j=carried_j + float(reused["energy_j"].sum()),
        saved_stages=reused.height,
        skipped_stages=passed_over.stages,
        skipped_energy_j=passed_over.energy_j,
        measured_energy_j=_known_sum(known["energy_measured_j"]),
        estimated_energy_j=_known_sum(known["energy_estimated_j"]),
        **{f"{name}_energy_j": _of_window(of_no_stage, name) for name in ("idle", "unattributed")},
        unknown_energy_attempts=joules["energy_j"].null_count(),
        energy=_kind_of_energy(set(joules["energy_kind"].drop_nulls())),
        nodes=add_up(nodes),
        duration_s=float(joules["duration_s"].sum()),
        budget=budget.caps,
        stopped_by_budget=None if results.held_by or at_work.height else budget.stopped,
        versions=in_words(differences(results)),
        problems=results.problems,
    )


def stopped_by_budget(results: Results) -> str:
    """What is to be said of a run that its budget has ended."""
    now = status(results)
    left = f"{counted(now.left, 'stage')} left" if now.left else "what was to be measured again has its earlier result"
    return now.stopped_by_budget or f"stopped by the budget: {left}"


def _median_durations(results: Results) -> pl.LazyFrame:
    return results.stages.group_by("kind").agg(typical_s=pl.median("duration_s"))


def _of_no_stage(results: Results) -> pl.LazyFrame:
    return results.energy.filter(pl.col("window").is_in(["idle", "unattributed"])).select(
        "window", pl.col("energy_j").fill_nan(None)
    )


def _of_window(rows: pl.DataFrame, window: str) -> float | None:
    energies = rows.filter(window=window)["energy_j"]
    return _known_sum(energies) if energies.len() else None


def _counts(stages: pl.DataFrame) -> dict[str, dict[str, int]]:
    counts = {str(kind): dict.fromkeys(STATES, 0) for kind in sorted(stages["kind"].drop_nulls().unique())}
    for kind, state, count in stages.group_by("kind", "state").len().sort("kind", "state").iter_rows():
        counts.setdefault(str(kind), dict.fromkeys(STATES, 0))[state] = count
    return counts


def _time_left_s(left: pl.DataFrame, durations: pl.DataFrame) -> float | None:
    times = left.join(durations, on="kind", how="left")["typical_s"]
    return None if times.null_count() else float(times.sum())


def _known_sum(energies: pl.Series) -> float | None:
    """The sum of what is known; unknown where nothing of it is, and 0 where there was nothing to know."""
    return float(energies.sum()) if energies.count() or energies.is_empty() else None


def _kind_of_energy(kinds: set[str]) -> str | None:
    return None if not kinds else MIXED if len(kinds) > 1 else kinds.pop()


def as_json(status: Status) -> str:
    """All fields of the status, as an object."""
    return to_json(asdict(status))


def as_table(status: Status) -> "Group":
    """For a terminal of 100 columns: counts, what was spent, what is left, what failed and why."""
    from rich.console import Group

    lines = [
        *((line.line(), "") for line in status.running),
        *((line, "") for line in _lines(status)),
        *((node.line(), "" if node.adds_up else "red") for node in status.nodes),
        *((problem, "") for problem in status.problems),
        *((f"{row['state']} {row['kind']} {row['stage_id']}: {row['reason']}", "red") for row in status.failed),
    ]
    return Group(_count_table(status.counts), *(plain(line, style) for line, style in lines))


def _energy_lines(status: Status) -> Iterator[str]:
    kind = f" ({status.energy})" if status.energy else ""
    parts = [f"{number(status.useful_energy_j)} J useful", f"{number(status.lost_energy_j)} J lost"]
    if status.running_energy_j != 0:
        parts.append(f"{number(status.running_energy_j)} J running")
    if status.checkpointed_energy_j:
        parts.append(f"{number(status.checkpointed_energy_j)} J in checkpoints to go on from")
    yield f"energy{kind}: {', '.join(parts)}"
    if status.energy == MIXED:
        measured, estimated = number(status.measured_energy_j), number(status.estimated_energy_j)
        yield f"of these in windows: {measured} J measured, {estimated} J estimated"
    if status.lost_attempts:
        part = "" if status.lost_share is None else f" ({share(status.lost_share)} of all stages' joules)"
        yield f"lost: {number(status.lost_energy_j)} J in {counted(status.lost_attempts, 'attempt')}{part}"
    if status.saved_stages or status.carried_attempts:
        yield f"resuming saved {number(status.saved_energy_j)} J: {_saved(status)}"
    if status.skipped_stages:
        about = f"about {number(status.skipped_energy_j)} J, estimated from finished ones"
        yield f"funnel: {counted(status.skipped_stages, 'stage')} skipped, which saved {about}"
    if status.idle_energy_j is not None:
        yield f"idle: {number(status.idle_energy_j)} J"
    if status.unattributed_energy_j is not None:
        yield f"unattributed: {number(status.unattributed_energy_j)} J"
    if status.unknown_energy_attempts:
        yield f"attempts with unknown energy: {status.unknown_energy_attempts}"


def _lines(status: Status) -> Iterator[str]:
    yield from _energy_lines(status)
    yield f"time spent: {clock(status.duration_s)}"
    if status.budget:
        yield f"budget used: {', '.join(cap.line() for cap in status.budget)}"
    left = "unknown" if status.time_left_s is None else f"about {clock(status.time_left_s)} one after another"
    yield f"left: {status.left} stages, {left}" if status.left else "left: nothing"
    if status.stopped_by_budget:
        yield f"{status.stopped_by_budget}; a run with a larger budget goes on from here"
    if status.held_by:
        yield f"held by {status.held_by}"
    if status.versions:
        yield f"versions differ: {status.versions}; run --rerun-changed measures anew what others were measured with"


def _saved(status: Status) -> str:
    stages = f"{counted(status.saved_stages, 'finished stage')}" if status.saved_stages else None
    training = f"{number(status.carried_energy_j)} J of training in {counted(status.carried_attempts, 'checkpoint')}"
    return ", and ".join(filter(None, [stages, training if status.carried_attempts else None]))


def counted(count: int, what: str) -> str:
    """Such as `1 stage`, or `2 stages`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def clock(duration_s: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _count_table(counts: dict[str, dict[str, int]]) -> "Table":
    from rich import box
    from rich.table import Table

    names = list(dict.fromkeys(name for by_state in counts.values() for name in [*STATES, *by_state]))
    names = [name for name in names if name in _ALWAYS_SHOWN or any(by_state.get(name) for by_state in counts.values())]
    table = Table("stages", *names, box=box.SIMPLE_HEAD, pad_edge=False)
    for kind, by_state in counts.items():
        table.add_row(plain(kind), *(plain(by_state.get(name, 0)) for name in names))
    return table

"""How far a sweep is: stages by state, joules and time spent, what is left."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analysis.load import Results
from analysis.show import number, plain, to_json
from analysis.states import LEFT, states

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

STATES: Final = ["finished", "failed", "diverged", "interrupted", "blocked", "infeasible", "pending"]


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
        useful_energy_j: known joules of attempts that became a result; None if none is known.
        lost_energy_j: known joules of all other attempts.
        idle_energy_j: known joules of nodes while no stage ran.
        unknown_energy_attempts: attempts whose joules are not known; they are in none of the sums.
        energy: measured, estimated or mixed; None without any attempt.
        duration_s: wall time of all attempts, added up.
        problems: files of the folder that were skipped.
    """

    counts: dict[str, dict[str, int]]
    failed: list[dict[str, Any]]
    left: int
    time_left_s: float | None
    useful_energy_j: float | None
    lost_energy_j: float | None
    idle_energy_j: float | None
    unknown_energy_attempts: int
    energy: str | None
    duration_s: float
    problems: list[str]


def status(results: Results) -> Status:
    """How far the sweep of a results folder is."""
    stages, durations, spent, idle = pl.collect_all(
        [states(results), _median_durations(results), _spent(results), _idle(results)]
    )
    useful, lost = spent.filter("useful"), spent.filter(~pl.col("useful"))
    left = stages.filter(pl.col("state").is_in(LEFT))
    return Status(
        counts=_counts(stages),
        failed=stages.filter(~pl.col("state").is_in(["finished", *LEFT]))
        .select("stage_id", "kind", "precision", "pruning", "pruning_applied", "seed", "state", "reason")
        .to_dicts(),
        left=left.height,
        time_left_s=_time_left_s(left, durations),
        useful_energy_j=_known_sum(useful["energy_j"]),
        lost_energy_j=_known_sum(lost["energy_j"]),
        idle_energy_j=_known_sum(idle["energy_j"]) if idle.height else None,
        unknown_energy_attempts=spent["energy_j"].null_count(),
        energy=_kind_of_energy(set(spent["measured"].drop_nulls())),
        duration_s=float(spent["duration_s"].sum()),
        problems=results.problems,
    )


def _median_durations(results: Results) -> pl.LazyFrame:
    return results.stages.group_by("kind").agg(typical_s=pl.median("duration_s"))


def _spent(results: Results) -> pl.LazyFrame:
    """One row per attempt: a stage's row stands for the attempt that finished it, all others are lost."""
    columns = ["energy_j", "duration_s", "measured"]
    lost = results.attempts.join(results.stages, on=["stage_id", "attempt"], how="anti")
    return pl.concat(
        [
            results.stages.select(*columns, useful=pl.lit(value=True)),
            lost.select(*columns, useful=pl.lit(value=False)),
        ]
    ).with_columns(pl.col("energy_j").fill_nan(None))


def _idle(results: Results) -> pl.LazyFrame:
    return results.energy.filter(pl.col("window") == "idle").select(pl.col("energy_j").fill_nan(None))


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


def _kind_of_energy(measured: set[bool]) -> str | None:
    if not measured:
        return None
    return "mixed" if len(measured) > 1 else "measured" if measured == {True} else "estimated"


def as_json(status: Status) -> str:
    """All fields of the status, as an object."""
    return to_json(asdict(status))


def as_table(status: Status) -> "Group":
    """For a terminal of 100 columns: counts, what was spent, what is left, what failed and why."""
    from rich.console import Group

    lines = [*_lines(status), *status.problems]
    failed = [f"{row['state']} {row['kind']} {row['stage_id']}: {row['reason']}" for row in status.failed]
    return Group(_count_table(status.counts), *map(plain, lines), *(plain(line, "red") for line in failed))


def _lines(status: Status) -> Iterator[str]:
    kind = f" ({status.energy})" if status.energy else ""
    yield f"energy{kind}: {number(status.useful_energy_j)} J useful, {number(status.lost_energy_j)} J lost"
    if status.idle_energy_j is not None:
        yield f"idle: {number(status.idle_energy_j)} J"
    if status.unknown_energy_attempts:
        yield f"attempts with unknown energy: {status.unknown_energy_attempts}"
    yield f"time spent: {clock(status.duration_s)}"
    left = "unknown" if status.time_left_s is None else f"about {clock(status.time_left_s)} one after another"
    yield f"left: {status.left} stages, {left}" if status.left else "left: nothing"


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

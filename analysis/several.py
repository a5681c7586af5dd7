"""Several results folders as one: all their rows under the names of their sweeps, and one result of each stage.

A stage is named by all that determines its result, so folders that hold the same stage have measured the same
twice. Both are kept, and one counts: where the stage finished last, or where it was tried last if it finished nowhere.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl

from analysis.results import Results
from energyaware.errors import few
from energyaware.rows import COLUMNS

_STAGE: Final = ["stage_id", "sweep"]


def names_of(folders: dict[str, Path], sweeps: list[str]) -> list[str]:
    """What each folder's sweep is called: its name, and where it was read from if another has the same name.

    Args:
        folders: by the place that was asked for.
        sweeps: the sweeps' own names.
    """
    count = Counter(sweeps)
    return [sweep if count[sweep] == 1 else f"{sweep} ({place})" for place, sweep in zip(folders, sweeps, strict=True)]


def named(results: Results, sweep: str) -> Results:
    """The same results with the name of their sweep in every row."""
    tables: dict[str, Any] = {name: frame.with_columns(sweep=pl.lit(sweep)) for name, frame in results.tables().items()}
    return replace(results, **tables, folders={sweep: results.folder})


def together(parts: dict[str, Results]) -> Results:
    """Results that are named, by the places that they were read from, as one."""
    tables = {name: pl.concat([part.tables()[name] for part in parts.values()]) for name in COLUMNS}
    if has_plan := any(part.has_plan for part in parts.values()):
        tables["plan"] = pl.concat([_asked(part) for part in parts.values()])
    tried = _tried(tables)
    counting = tried.unique("stage_id", keep="last", maintain_order=True)
    passed_over = tried.join(counting, on=_STAGE, how="anti")
    problems = [f"{place}: {problem}" for place, part in parts.items() for problem in part.problems]
    if passed_over.height:
        problems.append(_said(counting.join(passed_over, on="stage_id", how="semi")))
    not_counting = {name: passed_over for name in COLUMNS if name not in {"plan", "nodes"}}
    not_counting["plan"] = _asked_again(tables["plan"], counting)
    first, *_ = parts.values()
    counted: dict[str, Any] = {name: _rows(frame, not_counting.get(name), "anti") for name, frame in tables.items()}
    return replace(
        first,
        **counted,
        has_plan=has_plan,
        held_by="; ".join(f"{place} by {part.held_by}" for place, part in parts.items() if part.held_by) or None,
        problems=problems,
        others={
            name: _rows(tables[name], which, "semi") for name, which in not_counting.items() if not which.is_empty()
        },
        folders={sweep: folder for part in parts.values() for sweep, folder in part.folders.items()},
    )


def _rows(table: pl.LazyFrame, stages: pl.DataFrame | None, how: Literal["anti", "semi"]) -> pl.LazyFrame:
    if stages is None or stages.is_empty():
        return table
    return table.join(stages.lazy().select(_STAGE), on=_STAGE, how=how)


def _asked(part: Results) -> pl.LazyFrame:
    """The plan. Where a folder has none, what it has finished is asked for."""
    if part.has_plan:
        return part.plan
    finished = part.stages.with_columns(state=pl.lit("planned"), reason=pl.lit(None, pl.String))
    return finished.select(part.plan.collect_schema().names())


def _tried(tables: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    """Stages with the sweeps that have finished or tried them, the one that counts last."""
    columns = [*_STAGE, "finished", "at"]
    finished = tables["stages"].with_columns(finished=pl.lit(value=True), at="finished_at")
    attempts = tables["attempts"].with_columns(
        finished=pl.lit(value=False), at=pl.coalesce("finished_at", "started_at")
    )
    return (
        pl.concat([finished.select(columns), attempts.select(columns)])
        .sort("finished", "at", "sweep", nulls_last=False)
        .unique(_STAGE, keep="last", maintain_order=True)
        .collect()
    )


def _asked_again(plan: pl.LazyFrame, counting: pl.DataFrame) -> pl.DataFrame:
    """Stages that another sweep's plan has too: that of the sweep whose result counts stays, else one that can run."""
    return (
        plan.select(*_STAGE, "state")
        .join(counting.lazy().select("stage_id", counting="sweep"), on="stage_id", how="left")
        .sort(pl.col("sweep").eq_missing("counting"), pl.col("state").eq_missing("planned"), maintain_order=True)
        .filter(pl.col("sweep") != pl.col("sweep").last().over("stage_id"))
        .select(_STAGE)
        .collect()
    )


def _said(twice: pl.DataFrame) -> str:
    """Which stages several folders hold, and whose result counts."""
    stages = [f"{stage_id} that of {sweep}" for stage_id, sweep in twice.select(_STAGE).sort(_STAGE).iter_rows()]
    count = f"{len(stages)} stages are" if len(stages) > 1 else "1 stage is"
    return f"{count} in several folders, and the result that finished last counts: of {few(stages)}"

"""Ledgers: what the meters of a run that is at work, or was killed, have not handed over yet.

While a run is alive, the meter of each node rewrites `ledger/<run>-<node>.json` at every heartbeat. Who kills the run
leaves the file behind, until the next run takes its rows over. Its joules count from the first moment on.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import polars as pl

from analysis.kinds import AROUND, kind_of
from analysis.schema import schema, times
from analysis.tables import files_of
from energyaware.rows import SCHEMA_VERSION, Row

_ALIVE_S: Final = 10.0
_ALIVE_HEARTBEATS: Final = 3
"""A run is alive if its last heartbeat is not older than the longer of the two."""

_TRIED: Final = {
    "stage_id": pl.String(),
    "attempt": pl.Int64(),
    "kind": pl.String(),
    "settings": pl.String(),
    "workers": pl.Int64(),
    "nodes": pl.List(pl.String),
    "started_at": pl.Datetime("us", "UTC"),
    "written_at": pl.Datetime("us", "UTC"),
    "alive": pl.Boolean(),
}
"""An attempt as one node's ledger knows it: `written_at` is that ledger's last heartbeat."""


@dataclass(frozen=True)
class Ledgers:
    """The ledgers of a results folder as one.

    Attributes:
        energy: rows of the energy table.
        nodes: rows of the nodes table.
        attempts: one row per attempt and node, with the columns of `_TRIED`.
    """

    energy: pl.DataFrame
    nodes: pl.DataFrame
    attempts: pl.DataFrame


def read_ledgers(folder: Path, problems: list[str]) -> Ledgers | None:
    """All readable ledgers of a results folder; adds the others to `problems`. None where there is no ledger."""
    now = datetime.now(UTC)
    read = []
    for file in files_of(folder, "ledger", problems):
        try:
            read.append(_read(file, now))
        except FileNotFoundError:  # taken over since the folder was listed: its rows are in the tables
            continue
        except _Unreadable as problem:
            problems.append(f"{file.relative_to(folder)}: {problem}; skipped")
    if not read:
        return None
    return Ledgers(
        pl.concat(ledger.energy for ledger in read),
        pl.concat(ledger.nodes for ledger in read),
        pl.concat(ledger.attempts for ledger in read),
    )


def unrecorded(ledgers: Ledgers, energy: pl.LazyFrame, recorded: pl.LazyFrame) -> pl.DataFrame:
    """The attempts that only ledgers know, as rows of the attempts table.

    Such an attempt is `running` while a ledger that lists it is fresh, else it was `interrupted`.

    Args:
        ledgers: what was read.
        energy: the energy table, rows of ledgers included.
        recorded: stage_id and attempt of all that the tables know.
    """
    tried = (
        ledgers.attempts.lazy()
        .join(recorded, on=_ATTEMPT, how="anti")
        .sort("written_at")
        .group_by(_ATTEMPT, maintain_order=True)
        .agg(
            pl.last("kind", "settings", "workers", "written_at"),
            pl.col("nodes").list.explode().drop_nulls().unique().sort(),
            pl.col("started_at").min(),
            pl.col("alive").any(),
        )
    )
    last_seen = pl.col("written_at").dt.strftime("%Y-%m-%d %H:%M:%S UTC")
    rows = (
        tried.join(_spent(energy, tried), on=_ATTEMPT, how="left")
        .with_columns(_if_all_nodes_are_metered(name) for name in _SUMS)
        .with_columns(
            schema_version=SCHEMA_VERSION,
            state=pl.when("alive").then(pl.lit("running")).otherwise(pl.lit("interrupted")),
            reason=pl.when(~pl.col("alive")).then(
                pl.format("its run ended without a word; last heartbeat {}", last_seen)
            ),
            finished_at=pl.when(~pl.col("alive")).then("written_at"),
            duration_s=(pl.col("written_at") - pl.col("started_at")).dt.total_microseconds() / 1e6,
            kept=pl.lit(value=False),
        )
        .collect()
    )
    columns = schema("attempts")
    return rows.select(name if name in rows.columns else pl.lit(None).alias(name) for name in columns).cast(columns)


class _Unreadable(Exception):
    """A file that is no ledger of ours; the message says why."""


def _read(file: Path, now: datetime) -> Ledgers:
    """One ledger.

    Raises:
        FileNotFoundError: it is gone.
        _Unreadable: it is torn, foreign or newer than this program.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise _Unreadable(problem.strerror) from None
    except ValueError:
        raise _Unreadable("torn, or not JSON") from None
    try:
        if content["schema_version"] > SCHEMA_VERSION:
            raise _Unreadable(f"written under schema {content['schema_version']}, newer than {SCHEMA_VERSION}")
        written_at = datetime.fromisoformat(content["written_at"]).astimezone(UTC)
        limit_s = max(_ALIVE_S, _ALIVE_HEARTBEATS * content["heartbeat_s"])
        own = {"written_at": written_at, "alive": abs(now - written_at) <= timedelta(seconds=limit_s)}
        return Ledgers(
            _frame(content["energy"], schema("energy"), times("energy")),
            _frame(content["nodes"], schema("nodes"), times("nodes")),
            _frame([row | own for row in content["attempts"]], pl.Schema(_TRIED), ["started_at"]),
        )
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        raise _Unreadable("not a ledger of ours") from None


def _frame(rows: list[Row], columns: pl.Schema, moments: Iterable[str]) -> pl.DataFrame:
    """Rows as JSON has them, with times as ISO 8601 text."""
    times_read = [
        {name: datetime.fromisoformat(row[name]) for name in moments if row.get(name) is not None} for row in rows
    ]
    frame = pl.DataFrame([row | read for row, read in zip(rows, times_read, strict=True)], schema=columns)
    if "schema_version" in columns:
        frame = frame.with_columns(schema_version=pl.lit(SCHEMA_VERSION, pl.Int64))
    return frame


_SUMS: Final = [
    *["energy_j", "energy_other_j", "energy_measured_j", "energy_estimated_j", "energy_net_j", "carbon_g", "cost"],
]

_ATTEMPT: Final = ["stage_id", "attempt"]


def _spent(energy: pl.LazyFrame, tried: pl.LazyFrame) -> pl.LazyFrame:
    """Per attempt, the sums over its rows on all nodes; null where any part of a sum is unknown."""
    windows = energy.join(tried.select(_ATTEMPT), on=_ATTEMPT, how="semi").with_columns(
        pl.col("energy_j", "energy_net_j", "carbon_g", "cost").fill_nan(None),
        measured=pl.col("measured").fill_null(value=False),
    )
    around = pl.col("window").is_in(AROUND)
    sums = windows.group_by(_ATTEMPT).agg(
        *(_known_sum(name, ~around).alias(name) for name in ("energy_j", "energy_net_j", "carbon_g", "cost")),
        pl.col("measured").all(),
        energy_other_j=_known_sum("energy_j", around),
        energy_measured_j=_known_sum("energy_j", ~around & pl.col("measured")),
        energy_estimated_j=_known_sum("energy_j", ~around & ~pl.col("measured")),
        energy_kind=kind_of("measured"),
        metered=pl.col("node").unique(),
    )
    marks = (
        windows.filter(~around)
        .explode("marks")
        .drop_nulls("marks")
        .group_by(_ATTEMPT)
        .agg(marks=pl.format("{}: {}", "window", "marks").unique().sort())
    )
    return sums.join(marks, on=_ATTEMPT, how="left")


def _known_sum(name: str, rows: pl.Expr) -> pl.Expr:
    values = pl.col(name).filter(rows)
    return pl.when(values.null_count() == 0).then(values.sum())


def _if_all_nodes_are_metered(name: str) -> pl.Expr:
    unmetered = pl.col("nodes").list.set_difference("metered")
    return pl.when(unmetered.list.len() == 0).then(name).alias(name)

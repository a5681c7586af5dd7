"""A results folder as Polars frames.

Files that cannot be read are named in `Results.problems` and left out; the others are unharmed. Older schemas are
read: a column that did not exist yet is null, a column that we do not know is ignored. What a run that is at work, or
was killed, has only in its ledgers (`analysis.ledger`) is in the tables too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from analysis.holder import held_by
from analysis.kinds import with_kind
from analysis.ledger import Ledgers, read_ledgers, unrecorded
from analysis.schema import schema
from analysis.tables import files_of, read_table
from energyaware.errors import InputError
from energyaware.rows import COLUMNS, COMPACTED, KEYS

_INCOMING: Final = ".incoming"
"""Folder of unfinished writes; of a run that is at work it holds what is being written."""

_TRIES: Final = 10
"""How often a folder is listed anew because files of it were merged or taken over while they were read."""


@dataclass(frozen=True)
class Results:
    """The tables of one results folder, as described in `energyaware.rows`.

    Attributes:
        folder: where they lie; of results that are given by URL, this machine's copy.
        plan: what the sweep file asks for now.
        has_plan: whether there is a plan; without one, all that was run counts as asked for.
        held_by: the run that writes to the folder now, in words; None if none does.
        problems: files that were skipped, one line each with the reason.
    """

    folder: Path
    plan: pl.LazyFrame
    has_plan: bool
    stages: pl.LazyFrame
    attempts: pl.LazyFrame
    epochs: pl.LazyFrame
    quality: pl.LazyFrame
    energy: pl.LazyFrame
    nodes: pl.LazyFrame
    held_by: str | None
    problems: list[str]

    def tables(self) -> dict[str, pl.LazyFrame]:
        """The tables by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def asked_stages(self) -> pl.LazyFrame:
        """The finished stages that the plan asks for; all of them without a plan."""
        return self.stages.join(self.plan, on="stage_id", how="semi") if self.has_plan else self.stages


def load(place: str | Path) -> Results:
    """Read a results folder.

    Args:
        place: a folder, or the fsspec URL of one in object storage.

    Raises:
        InputError: there is no such folder, or it holds no results.
        StorageError: storage is away.
    """
    path = str(place).removeprefix("file://")
    folder = _copy(path) if "://" in path else Path(path)
    if not folder.is_dir():
        raise InputError(place, "", "there is no such results folder")
    for _ in range(_TRIES):
        try:
            results, merged = _load(folder, place)
        except FileNotFoundError:
            continue
        if _merged(folder) == merged:  # else a listing may have missed both the files and what they were merged into
            return results
    raise InputError(place, "", "is being changed faster than it can be read: try again")


def _copy(url: str) -> Path:
    from energyaware.files_mirror import mirror

    folders = [*(name for name in COLUMNS if name != "plan"), "ledger", "lease"]
    return mirror(url, folders, ["plan.parquet", "sweep.yaml"])


def _load(folder: Path, place: str | Path) -> tuple[Results, set[Path]]:
    """The tables as they are now, and the merged files that were read.

    Raises:
        FileNotFoundError: a file is gone since the folder was listed.
        InputError: there are no results.
    """
    problems: list[str] = []
    ledgers = read_ledgers(folder, problems)  # first: a run drops a ledger when its rows are in the tables
    found = {name: files_of(folder, name, problems) for name in COLUMNS}
    if not any(found.values()) and ledgers is None:
        folders = ", ".join(name for name in COLUMNS if name != "plan")
        raise InputError(place, "", f"holds no results: no plan.parquet and no files under {folders}")
    tables = {name: _table(folder, name, files, problems, ledgers) for name, files in found.items()}
    if ledgers is not None:
        recorded = pl.concat([tables[name].select("stage_id", "attempt") for name in ("attempts", "stages")])
        unwritten = unrecorded(ledgers, tables["energy"], recorded)
        tables["attempts"] = pl.concat([unwritten.lazy(), tables["attempts"]])
    holder = held_by(folder, problems)
    if holder is None and (unfinished := sum(path.is_file() for path in (folder / _INCOMING).rglob("*"))):
        problems.append(
            f"{_INCOMING}: {unfinished} unfinished files that a killed process left; the next run removes them"
        )
    has_plan = tables["plan"].head(1).collect().height > 0
    results = Results(folder=folder, has_plan=has_plan, held_by=holder, problems=problems, **tables)
    return results, {file for files in found.values() for file in files if file.name.startswith(COMPACTED)}


def _merged(folder: Path) -> set[Path]:
    return {file for name in COLUMNS for file in files_of(folder, name, []) if file.name.startswith(COMPACTED)}


def _table(folder: Path, table: str, files: list[Path], problems: list[str], ledgers: Ledgers | None) -> pl.LazyFrame:
    """One row per key, the last one: rows of ledgers come first, then those of files."""
    frame = read_table(folder, table, files, problems)
    early = {} if ledgers is None else {"energy": ledgers.energy, "nodes": ledgers.nodes}
    if table in early:
        frame = pl.concat([early[table].lazy(), frame])
    frame = frame.unique(KEYS[table], keep="last", maintain_order=True)
    return with_kind(frame) if "energy_kind" in schema(table) else frame

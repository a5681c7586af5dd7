"""A results folder as Polars frames.

Files that cannot be read are named in `Results.problems` and left out; the others are unharmed. Older schemas are
read: a column that did not exist yet is null, a column that we do not know is ignored. What a run that is at work, or
was killed, has only in its ledgers (`analysis.ledger`) is in the tables too.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import polars as pl

from analysis.holder import held_by
from analysis.kinds import with_kind
from analysis.ledger import Ledgers, read_ledgers, unrecorded
from analysis.results import Results
from analysis.schema import no_rows, schema
from analysis.several import named, names_of, together
from analysis.tables import files_of, read_table
from energyaware.errors import InputError, few
from energyaware.rows import COLUMNS, COMPACTED

__all__ = ["Results", "load"]

_INCOMING: Final = ".incoming"
"""Folder of unfinished writes; of a run that is at work it holds what is being written."""

_TRIES: Final = 10
"""How often a folder is listed anew because files of it were merged or taken over while they were read."""

_NAME: Final = re.compile(r"^name: *['\"]?([\w.-]+)['\"]? *$", re.MULTILINE)
"""Of a sweep in its file, which is not worth importing a YAML library for."""


def load(*places: str | Path) -> Results:
    """Read a results folder, or several as one (see `analysis.several`).

    Args:
        places: folders, or fsspec URLs of such in object storage.

    Raises:
        InputError: there is no such folder, it holds no results, or it is named twice.
        StorageError: storage is away.
    """
    parts = {str(place): _read(place) for place in places}
    folders = {place: part.folder.resolve() for place, part in parts.items()}
    if not places:
        raise InputError("results", "", "name at least one folder")
    if len(set(folders.values())) < len(places):
        raise InputError(few(list(map(str, places))), "", "a folder is named twice")
    sweeps = names_of(folders, [_name(place, folder) for place, folder in folders.items()])
    parts = {place: named(part, sweep) for (place, part), sweep in zip(parts.items(), sweeps, strict=True)}
    return together(parts) if len(parts) > 1 else next(iter(parts.values()))


def _name(place: str, folder: Path) -> str:
    """Name of the sweep by its sweep file, as `energyaware run` leaves it; else of the folder."""
    try:
        text = (folder / "sweep.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        text = ""
    found = _NAME.search(text)
    return found[1] if found else Path(place).name or folder.name


def _read(place: str | Path) -> Results:
    path = str(place).removeprefix("file://")
    folder = _copy(path) if "://" in path else Path(path)
    if not folder.is_dir():
        if folder.is_file():
            raise InputError(place, "", "is a file: give the folder of a sweep's results")
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
    tables: dict[str, Any] = _tables(folder, found, problems, ledgers)
    if ledgers is not None:
        recorded = pl.concat([tables[name].select("stage_id", "attempt") for name in ("attempts", "stages")])
        unwritten = unrecorded(ledgers, tables["energy"], recorded)
        tables["attempts"] = pl.concat([unwritten.lazy(), tables["attempts"]])
    holder = held_by(folder, problems)
    if holder is None and (unfinished := sum(path.is_file() for path in (folder / _INCOMING).rglob("*"))):
        problems.append(
            f"{_INCOMING}: {unfinished} unfinished files that a killed process left; the next run removes them"
        )
    has_plan = tables["plan"].head(1).collect(engine="in-memory").height > 0
    results = Results(folder=folder, has_plan=has_plan, held_by=holder, problems=problems, **tables)
    return results, {file for files in found.values() for file in files if file.name.startswith(COMPACTED)}


def _merged(folder: Path) -> set[Path]:
    return {file for name in COLUMNS for file in files_of(folder, name, []) if file.name.startswith(COMPACTED)}


def _tables(
    folder: Path, found: dict[str, list[Path]], problems: list[str], ledgers: Ledgers | None
) -> dict[str, pl.LazyFrame]:
    """One row per key, the last one: rows of ledgers come first, then those of files.

    Two tables are read at a time: one leaves processors idle, more take more memory.
    """
    early = {} if ledgers is None else {"energy": ledgers.energy, "nodes": ledgers.nodes}
    faults: dict[str, list[str]] = {table: [] for table in found}

    def read(table: str) -> pl.LazyFrame:
        frame = read_table(folder, table, found[table], faults[table], early.get(table, no_rows(table)))
        return with_kind(frame) if "energy_kind" in schema(table) else frame

    largest_first = sorted(found, key=lambda table: table != "energy")
    with ThreadPoolExecutor(max_workers=2) as readers:
        tables = dict(zip(largest_first, readers.map(read, largest_first), strict=True))
    problems += [fault for table in found for fault in faults[table]]
    return tables

"""A results folder as Polars frames.

Files that cannot be read are named in `Results.problems` and left out; the others are unharmed. Older schemas are
read: a column that did not exist yet is null, a column that we do not know is ignored. What a run that is at work, or
was killed, has only in its ledgers (`analysis.ledger`) is in the tables too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from analysis.kinds import with_kind
from analysis.ledger import read_ledgers, unrecorded
from analysis.schema import schema
from energyaware.errors import InputError
from energyaware.rows import COLUMNS, SCHEMA_VERSION

_KEYS: Final[dict[str, list[str]]] = {
    "plan": ["stage_id"],
    "stages": ["stage_id"],
    "attempts": ["stage_id", "attempt"],
    "epochs": ["stage_id", "attempt", "epoch"],
    "quality": ["stage_id", "attempt", "task", "metric"],
    "energy": [
        *["run", "node", "stage_id", "attempt", "window", "epoch", "repeat", "started_at", "component", "device"],
    ],
    "nodes": ["run", "node", "component", "device", "started_at"],
}
"""What names a row. Of rows with one key, the last is taken; those of ledgers come first."""

_ALWAYS_FILLED: Final = {"energy": "node", "nodes": "node"}
"""Column that every file of a table has filled; stage_id where not named here. Without it a file is not ours."""

_IN_MEMORY_BYTES: Final = 256 * 2**20
"""Tables up to this size on disk are read once; larger ones stay on disk and are read by each query."""


@dataclass(frozen=True)
class Results:
    """The tables of one results folder, as described in `energyaware.rows`.

    Attributes:
        folder: where they lie.
        plan: what the sweep file asks for now.
        has_plan: whether there is a plan; without one, all that was run counts as asked for.
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
    problems: list[str]

    def tables(self) -> dict[str, pl.LazyFrame]:
        """The tables by name."""
        return {name: getattr(self, name) for name in COLUMNS}


def load(folder: str | Path) -> Results:
    """Read a results folder.

    Raises:
        InputError: the folder does not exist, or holds no results.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "", "there is no such results folder")
    problems: list[str] = []
    ledgers = read_ledgers(folder, problems)  # first: a run drops a ledger when its rows are in the tables
    found = {name: sorted(_files(folder, name)) for name in COLUMNS}
    if not any(found.values()) and ledgers is None:
        folders = ", ".join(name for name in COLUMNS if name != "plan")
        raise InputError(folder, "", f"holds no results: no plan.parquet and no files under {folders}")
    early = {} if ledgers is None else {"energy": ledgers.energy, "nodes": ledgers.nodes}
    tables = {name: _table(folder, name, files, problems, early.get(name)) for name, files in found.items()}
    if ledgers is not None:
        recorded = pl.concat([tables[name].select("stage_id", "attempt") for name in ("attempts", "stages")])
        unwritten = unrecorded(ledgers, tables["energy"], recorded)
        tables["attempts"] = pl.concat([unwritten.lazy(), tables["attempts"]])
    return Results(folder=folder, has_plan=_has_rows(tables["plan"]), problems=problems, **tables)


def _files(folder: Path, table: str) -> Iterator[Path]:
    """Files of a table, those of hidden and temporary folders left out."""
    candidates = [folder / "plan.parquet"] if table == "plan" else (folder / table).rglob("*")
    for file in candidates:
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts):
            yield file


def _table(
    folder: Path, table: str, files: list[Path], problems: list[str], early: pl.DataFrame | None
) -> pl.LazyFrame:
    """Rows of ledgers, then those of all readable files of a table, as one frame; adds other files to `problems`."""
    try:
        frame, strange = _read(table, files)
    except (pl.exceptions.PolarsError, OSError):  # at least one file is unreadable: find out which
        strange = {file: why for file in files if (why := _fault(table, file))}
    if strange:
        problems += [f"{file.relative_to(folder)}: {why}; skipped" for file, why in strange.items()]
        frame, _ = _read(table, [file for file in files if file not in strange])
    if early is not None:
        frame = pl.concat([early.lazy(), frame])
    frame = frame.unique(_KEYS[table], keep="last", maintain_order=True)
    return with_kind(frame) if "energy_kind" in schema(table) else frame


def _read(table: str, files: list[Path]) -> tuple[pl.LazyFrame, dict[Path, str]]:
    """Read the files at once.

    Returns:
        The rows, and the files that are Parquet but not ours, with the reason.

    Raises:
        PolarsError: one of the files is not Parquet, or a column has a type that does not fit.
    """
    scan = pl.scan_parquet(
        files,
        schema=schema(table),
        missing_columns="insert",
        extra_columns="ignore",
        cast_options=pl.ScanCastOptions(integer_cast="allow-float"),
        include_file_paths="file",
        glob=False,
    )
    if sum(file.stat().st_size for file in files) <= _IN_MEMORY_BYTES:
        scan = scan.collect().lazy()
    else:
        scan.select(pl.all().null_count()).collect(engine="streaming")  # reads every page once, in little memory
    strange = (
        scan.group_by("file")
        .agg(pl.col("schema_version").max(), ours=pl.col(_ALWAYS_FILLED.get(table, "stage_id")).is_not_null().any())
        .filter(~pl.col("ours") | (pl.col("schema_version") > SCHEMA_VERSION))
        .sort("file")
        .collect()
    )
    return scan.drop("file"), {
        Path(file): f"written under schema {version}, newer than {SCHEMA_VERSION}" if ours else "not a table of ours"
        for file, version, ours in strange.select("file", "schema_version", "ours").iter_rows()
    }


def _fault(table: str, file: Path) -> str | None:
    """Why a file cannot be read as part of a table, or None."""
    if file.suffix != ".parquet":
        return "not a Parquet file"
    try:
        if file.stat().st_size == 0:
            return "empty (0 bytes)"
        return next(iter(_read(table, [file])[1].values()), None)
    except pl.exceptions.SchemaError as error:
        return str(error).splitlines()[0]
    except (pl.exceptions.PolarsError, OSError):
        return "torn, or not a Parquet file"


def _has_rows(frame: pl.LazyFrame) -> bool:
    return frame.head(1).collect().height > 0

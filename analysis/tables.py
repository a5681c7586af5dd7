"""The files of one table of a results folder as one frame; what cannot be read is named and left out."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import polars as pl

from analysis import once
from analysis.schema import no_rows, schema
from energyaware.rows import FILLED, SCHEMA_VERSION, not_of, reading_order

_IN_MEMORY_BYTES: Final = 32 * 2**20
"""Tables up to this size on disk are read once; larger ones stay on disk, and each query reads the columns it needs.

In memory a row of energy takes 5 times what it takes on disk."""


def files_of(folder: Path, table: str, problems: list[str]) -> list[Path]:
    """Files of a table in the order in which they count, those of hidden and temporary folders left out.

    What is no file, or a folder that cannot be looked into, is added to `problems`.
    """

    def tell(name: str, why: str | None) -> None:
        problems.append(f"{Path(name).relative_to(folder)}: {why}; skipped")

    def unlistable(problem: OSError) -> None:
        if not isinstance(problem, FileNotFoundError):
            tell(problem.filename, problem.strerror)

    found = []
    for path in _plan(folder) if table == "plan" else _below(folder / table, unlistable):
        try:
            mode = path.stat().st_mode
        except OSError as problem:
            tell(str(path), problem.strerror)
            continue
        if stat.S_ISREG(mode):
            found.append(path)
        else:
            tell(str(path), "a folder, not a file" if stat.S_ISDIR(mode) else "not a file")
    return sorted(found, key=lambda path: reading_order(path.relative_to(folder).as_posix()))


def _plan(folder: Path) -> Iterator[Path]:
    path = folder / "plan.parquet"
    if os.path.lexists(path):
        yield path


def _below(top: Path, unlistable: "os._OnError") -> Iterator[Path]:
    """All below a folder that is not hidden; a folder that is named as a file is not looked into."""
    for where, folders, files in os.walk(top, onerror=unlistable):
        posing = [name for name in folders if name.endswith(".parquet") and not _hidden(name)]
        folders[:] = [name for name in folders if name not in posing and not _hidden(name)]
        yield from (Path(where, name) for name in [*posing, *files] if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def read_table(folder: Path, table: str, files: list[Path], problems: list[str], early: pl.DataFrame) -> pl.LazyFrame:
    """Rows of all readable files of a table, one per key (see `analysis.once`); adds the other files to `problems`.

    Args:
        folder: the results folder.
        table: which.
        files: as `files_of` lists them.
        problems: one line is added for each file that is skipped.
        early: rows that any file's row of the same key counts over.

    Raises:
        FileNotFoundError: a file is gone since the folder was listed.
    """
    try:
        frame, strange = _read(table, files, early, extra="raise")
        if not strange:
            return frame
    except FileNotFoundError:
        raise
    except (pl.exceptions.PolarsError, OSError):  # at least one file is not as it should be: find out which
        strange = {file: why for file in files if (why := _fault(table, file))}
    frame, _ = _read(table, [file for file in files if file not in strange], early)
    problems += [f"{file.relative_to(folder)}: {why}; skipped" for file, why in strange.items()]
    return frame


def _read(
    table: str, files: list[Path], early: pl.DataFrame, extra: Literal["ignore", "raise"] = "ignore"
) -> tuple[pl.LazyFrame, dict[Path, str]]:
    """Read the files at once.

    Returns:
        The rows, one per key, and the files that are Parquet but not ours, with the reason.

    Raises:
        PolarsError: one of the files is not Parquet, a column has a type that does not fit, or is not known.
        OSError: one of the files cannot be read.
    """
    rows = pl.scan_parquet(
        files,
        schema=schema(table),
        missing_columns="insert",
        extra_columns=extra,
        cast_options=pl.ScanCastOptions(integer_cast="allow-float"),
        include_file_paths="file",
        glob=False,
    )
    if sum(file.stat().st_size for file in files) <= _IN_MEMORY_BYTES:
        content = rows.collect(engine="in-memory")
        strange = {} if _ours(content, table) else _strange(_by_file(content.lazy(), table).collect(engine="in-memory"))
        return once.of_files(content, table, early).lazy(), strange
    held = _by_file(rows, table, *once.part_of(table)).collect(engine="streaming")
    rest = pl.exclude("file", "schema_version", FILLED[table], *once.part_of(table))
    rows.select(rest.null_count()).collect(engine="streaming")  # so that every page is read, in little memory
    return once.on_disk(rows.drop("file"), table, held, early), _strange(held)


def _ours(rows: pl.DataFrame, table: str) -> bool:
    """No row gives a reason to ask which file it is of."""
    return rows[FILLED[table]].null_count() == 0 and rows["schema_version"].fill_null(0).le(SCHEMA_VERSION).all()


def _by_file(rows: pl.LazyFrame, table: str, *part: str) -> pl.LazyFrame:
    """What each file holds, part by part: the number of rows, the newest schema, and whether a row is ours."""
    return (
        rows.with_columns(pl.col("file").cast(pl.Categorical))  # half the time that it takes to group by texts
        .group_by("file", *part)
        .agg(pl.len(), version=pl.col("schema_version").max(), ours=pl.col(FILLED[table]).is_not_null().any())
        .with_columns(pl.col("file").cast(pl.String))
    )


def _strange(held: pl.DataFrame) -> dict[Path, str]:
    """The files that are not ours, with the reason."""
    by_file = held.group_by("file").agg(pl.max("version"), pl.any("ours")).sort("file")
    return {
        Path(file): f"written under schema {version}, newer than {SCHEMA_VERSION}" if ours else "not a table of ours"
        for file, version, ours in by_file.iter_rows()
        if not ours or (version or 0) > SCHEMA_VERSION
    }


def _fault(table: str, file: Path) -> str | None:
    """Why a file cannot be read as part of a table, or None.

    Raises:
        FileNotFoundError: it is gone.
    """
    if file.suffix != ".parquet":
        return "not a Parquet file"
    try:
        with file.open("rb") as content:
            if not content.read(1):
                return "empty (0 bytes)"
        return not_of(table, pl.read_parquet_schema(file)) or next(
            iter(_read(table, [file], no_rows(table))[1].values()), None
        )
    except FileNotFoundError:
        raise
    except pl.exceptions.SchemaError as error:
        return str(error).splitlines()[0]
    except pl.exceptions.PolarsError:
        return "torn, or not a Parquet file"
    except OSError as problem:
        return problem.strerror or "cannot be read"

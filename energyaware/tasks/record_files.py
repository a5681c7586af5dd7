"""A file of records: CSV, JSON lines or Parquet, read as text and checked value by value."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from energyaware.errors import InputError
from energyaware.tasks import TASKS, Record

Table = tuple[list[str], Iterable[dict[str, Any]]]
"""The names of the columns, and the rows."""

LABEL_FIELDS: Final = {name for task in TASKS.values() if not task.generates for name in task.fields} - {
    name for task in TASKS.values() if task.generates for name in task.fields
}
"""Fields that only a choosing task reads: an integer is a label as good as any, whereas a ticket has to be text."""

TYPES: Final = {bool: "a truth value", int: "an integer", float: "a decimal number", list: "a list", dict: "an object"}


def read_records(path: Path, columns: Mapping[str, str]) -> list[Record]:
    """The records of one file, with the fields that `columns` names: our field name -> column.

    Raises:
        InputError: not readable, a column is missing, or a value is empty or no text. Rows are counted from 1.
    """
    present, rows = READERS[path.suffix.lower()](path)
    for name, column in columns.items():
        if column not in present:
            there = ", ".join(present) or "none"
            raise InputError(path, f"data.columns.{name}", f"no column {column!r}; columns are: {there}")
    records = [
        {name: _text(path, name, column, row.get(column), number) for name, column in columns.items()}
        for number, row in enumerate(rows, start=1)
    ]
    for name, column in columns.items():
        if name not in LABEL_FIELDS and records and all(_is_number(record[name]) for record in records):
            problem = f"column {column!r} holds numbers, not text: row 1 is {records[0][name]!r}"
            raise InputError(path, f"data.columns.{name}", problem)
    return list(records)


def _text(path: Path, name: str, column: str, value: Any, row: int) -> str:
    if type(value) is int and name in LABEL_FIELDS:
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InputError(path, f"data.columns.{name}", f"column {column!r} is empty in row {row}")
    if not isinstance(value, str):
        kind = TYPES.get(type(value), type(value).__name__)
        raise InputError(path, f"data.columns.{name}", f"column {column!r} holds {kind} in row {row}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, where text was cut by UTF-16 units
        problem = f"column {column!r} holds what is no Unicode text in row {row}: {value[error.start]!r}"
        raise InputError(path, f"data.columns.{name}", problem) from None
    return value.strip()


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+([.,]\d+)?(e[-+]?\d+)?", text, re.IGNORECASE) is not None


def _read_json_lines(path: Path) -> Table:
    rows: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise InputError(path, "data", f"line {number} is not a JSON object")
                    rows.append(row)
    except json.JSONDecodeError as error:
        raise InputError(path, "data", f"line {number} is not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "data", "not UTF-8 text") from error
    return list(dict.fromkeys(column for row in rows for column in row)), rows


def _read_with(read: Callable[[Path], pl.DataFrame]) -> Callable[[Path], Table]:
    def reader(path: Path) -> Table:
        try:
            frame = read(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(path, "data", f"cannot be read: {str(error).splitlines()[0]}") from error
        return frame.columns, frame.iter_rows(named=True)

    return reader


READERS: Final[dict[str, Callable[[Path], Table]]] = {
    ".csv": _read_with(lambda path: pl.read_csv(path, infer_schema=False)),
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_with(pl.read_parquet),
}

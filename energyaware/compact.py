"""Merging the many small files of a results folder into few.

It may be killed at any point. Merged rows are in their place before the first file that they come from is removed, and
until then a reader sees some rows twice, of which it takes one: a file of its own counts over merged ones, a newer
merged one over an older (`energyaware.rows.reading_order`). For that order to stay as it was,

- earlier merged files are merged again only together with all newer ones, and all into the first new file;
- files are removed in the order in which they count, so that those which are left still count most.

What cannot be read, or is not ours, stays where it is.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from energyaware.errors import few
from energyaware.files import Files
from energyaware.points import reached
from energyaware.rows import COLUMNS, COMPACTED, KEYS, reading_order
from energyaware.table_file import NotOurs, rows_of

ROWS_PER_FILE: Final = 50_000
"""A merged file has hardly more. It is made in memory, where a row takes about 1 kB, but one of quality 8 bytes for
each example."""

BYTES_PER_FILE: Final = 128 * 1024 * 1024
"""The same in bytes of memory, of which making the file takes a few times as many."""

_AT_ONCE: Final = 256
"""Files that are read together, and removed between two looks at whether that is still allowed."""

_READERS: Final = 16
"""Threads that read; object storage takes its time for each file."""

_STAMP: Final = "%Y%m%dT%H%M%S%fZ"
"""Of a merged file: when it was made. Newer ones sort last."""

_MERGED: Final = b"energyaware.merged"
"""Metadata of a merged file: the merged files that it takes the place of, as JSON."""


@dataclass
class Compacted:
    """What became of the files of the tables.

    Attributes:
        files_before: how many there were.
        files_after: how many there are.
        rows: in the new ones.
        left: files that were left as they are, one line each with the reason.
    """

    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    left: list[str] = field(default_factory=list)

    def line(self) -> str:
        """What was done, for people."""
        done = f"{self.files_before:,} files are {self.files_after:,} now, {self.rows:,} rows merged"
        return f"{done}; left as they are: {few(self.left)}" if self.left else done


def compact(files: Files, check: Callable[[], object], rows_per_file: int = ROWS_PER_FILE) -> Compacted:
    """Merge the small files of each table; what a reader finds in the tables stays the same.

    Nobody else may write to the results meanwhile. One who begins all the same loses nothing: a file that is no longer
    what was merged is not removed.

    Args:
        files: the results.
        check: raises if the results may not be changed, or not any more. Asked before each change.
        rows_per_file: of a merged file.

    Raises:
        StorageError: the results cannot be read or written, for longer than can be waited for.
    """
    check()
    done = Compacted()
    for table in COLUMNS:
        if table != "plan":
            names = files.names(table)
            done.files_before += len(names)
            for folder, inside in groupby(_mergeable(table, names, done.left), _folder):
                _Folder(files, check, table, folder, rows_per_file, done).compact(list(inside))
            done.files_after += len(files.names(table))
    return done


def _mergeable(table: str, names: Sequence[str], left: list[str]) -> list[str]:
    """The files that lie where a run writes them."""
    depth = 2 if table == "stages" else 1
    chosen = [name for name in names if name.endswith(".parquet") and name.count("/") == depth]
    left += [f"{name}: not a file of the table {table}" for name in names if name not in set(chosen)]
    return sorted(chosen, key=lambda name: (_folder(name), reading_order(name)))


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


@dataclass(frozen=True)
class _Part:
    """A file that was read."""

    name: str
    digest: bytes
    rows: pa.Table


class _Batch:
    """Rows that become one file."""

    def __init__(self, table: str, rows: list[pa.Table]) -> None:
        self._keys, self._rows = KEYS[table], rows
        self.count = sum(each.num_rows for each in rows)
        self.bytes = sum(each.nbytes for each in rows)

    def add(self, rows: pa.Table) -> None:
        """Rows that count over those before."""
        self._rows.append(rows)
        self.count += rows.num_rows
        self.bytes += rows.nbytes
        if len(self._rows) >= _AT_ONCE:  # a table of one row takes as much memory as one of hundreds
            self._rows = [pa.concat_tables(self._rows).combine_chunks()]

    def last_of_each_key(self) -> pa.Table:
        """All rows that a reader would not pass over."""
        rows = pa.concat_tables(self._rows)
        keys = pl.DataFrame(rows.select(self._keys)).with_row_index("row")
        return rows.take(keys.unique(self._keys, keep="last")["row"].sort().to_arrow())


@dataclass
class _Folder:
    """The files of one folder of a table."""

    files: Files
    check: Callable[[], object]
    table: str
    folder: str
    rows_per_file: int
    done: Compacted

    def compact(self, names: list[str]) -> None:
        """Merge them, given in the order in which they count."""
        earlier = [name for name in names if _is_merged(name)]
        single = names[len(earlier) :]
        again = self._small_ones(earlier)
        if not single:
            return
        stamp = _after(earlier)
        removable = {part.name: part.digest for part in again}
        replaced = list(removable)
        batch = _Batch(self.table, [part.rows for part in again])
        for part in self._read(single):
            removable[part.name] = part.digest
            batch.add(part.rows)
            if batch.count >= self.rows_per_file or batch.bytes >= BYTES_PER_FILE:
                self._write(batch, stamp, replaced)
                batch, replaced, stamp = _Batch(self.table, []), [], stamp + timedelta(microseconds=1)
        if len(removable) > len(again) and batch.count:
            self._write(batch, stamp, replaced)
        self._remove(removable)

    def _read(self, names: Sequence[str]) -> Iterator[_Part]:
        """Those of the files that are ours, one after another; the others are told of."""
        with ThreadPoolExecutor(_READERS) as readers:
            for some in _chunks(names):
                for name, content in zip(some, readers.map(self.files.read, some), strict=True):
                    try:
                        yield _Part(name, _digest(content), rows_of(self.table, content))
                    except NotOurs as problem:
                        self.done.left.append(f"{name}: {problem}")

    def _small_ones(self, merged: Sequence[str]) -> list[_Part]:
        """The newest merged files, as many as leave half of a new one free.

        An older one whose rows are all in a newer one is removed: that was left undone by a compaction that was killed.
        """
        chosen: list[_Part] = []
        rows, size, replaced = 0, 0, set[str]()
        for part in (part for name in reversed(merged) for part in self._read([name])):
            if part.name in replaced:
                self._remove({part.name: part.digest})
                continue
            replaced.update(_replaced_by(part.rows))
            rows, size = rows + part.rows.num_rows, size + part.rows.nbytes
            if rows <= self.rows_per_file // 2 and size <= BYTES_PER_FILE // 2:
                chosen.insert(0, part)
        return chosen

    def _write(self, batch: _Batch, stamp: datetime, replaced: list[str]) -> None:
        rows = batch.last_of_each_key()
        buffer = io.BytesIO()
        pq.write_table(rows.replace_schema_metadata({_MERGED: json.dumps(replaced)}), buffer)
        content = buffer.getvalue()
        self.check()
        name = f"{self.folder}/{COMPACTED}{stamp:{_STAMP}}-{_digest(content).hex()[:8]}.parquet"
        self.files.write(name, content, point="compact-unmoved")
        reached("compact-moved")
        self.done.rows += rows.num_rows

    def _remove(self, digests: dict[str, bytes]) -> None:
        """Remove files, in this order, that are still what they were."""
        with ThreadPoolExecutor(_READERS) as readers:
            for some in _chunks(list(digests)):
                self.check()
                for name, content in zip(some, readers.map(self._content, some), strict=True):
                    if content is None or _digest(content) == digests[name]:
                        self.files.remove(name)
                        reached("compact-removing")
                    else:
                        self.done.left.append(f"{name}: was written anew meanwhile")

    def _content(self, name: str) -> bytes | None:
        try:
            return self.files.read(name)
        except FileNotFoundError:
            return None


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE))


def _is_merged(name: str) -> bool:
    return name.rpartition("/")[2].startswith(COMPACTED)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _after(merged: Sequence[str]) -> datetime:
    """Now, or just after the newest merged file where the clock was put back."""
    now = datetime.now(UTC)
    stamps = []
    for name in merged:
        text = name.rpartition("/")[2].removeprefix(COMPACTED).partition("-")[0]
        try:
            stamps.append(datetime.strptime(text, _STAMP).replace(tzinfo=UTC))
        except ValueError:
            continue
    return max([now, *(stamp + timedelta(microseconds=1) for stamp in stamps)])


def _replaced_by(rows: pa.Table) -> list[str]:
    names: list[str] = json.loads((rows.schema.metadata or {}).get(_MERGED, b"[]"))
    return names

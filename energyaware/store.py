"""A results folder: append-only, one small file per finished thing, each written elsewhere first and moved.

Nothing in it is ever half-written: what a reader's glob can see was complete when it was moved there. A stage's row
in `stages/` is written last, so its presence means that everything else of the stage is there.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from energyaware.arrow import to_table
from energyaware.energy.ledger_file import FOLDER as LEDGERS
from energyaware.errors import InputError
from energyaware.rows import Row

INCOMING: Final = ".incoming"
"""Folder of unfinished writes, on the same file system, hidden from every glob."""


class Store:
    """Reads and writes one results folder (local or shared file system)."""

    def __init__(self, root: Path | str) -> None:
        if "://" in str(root):
            raise InputError(root, "results", "must be a folder of this file system; URLs are not supported yet")
        self.root = Path(root).expanduser().resolve()

    def create(self) -> None:
        """Make the folder.

        Raises:
            InputError: it cannot be made or written to.
        """
        try:
            (self.root / INCOMING).mkdir(parents=True, exist_ok=True)
            probe = self.root / INCOMING / f"probe-{uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as problem:
            raise InputError(self.root, "results", f"cannot be written to: {problem.strerror}") from None

    # -- rows ------------------------------------------------------------------------------------------------------

    def commit_stage(self, row: Row) -> None:
        """Write the row that says the stage is finished. Call it last."""
        self._write(f"stages/{row['kind']}/{row['stage_id']}.parquet", to_table("stages", [row]))

    def write_rows(self, table: str, name: str, rows: list[Row]) -> None:
        """Write one file of rows of attempts, epochs, quality or energy; no rows, no file."""
        if rows:
            self._write(f"{table}/{name}.parquet", to_table(table, rows))

    def write_plan(self, rows: list[Row]) -> None:
        """Replace the record of what is asked for now."""
        self._write("plan.parquet", to_table("plan", rows))

    def finished(self) -> frozenset[str]:
        """Ids of the stages whose row is there."""
        return frozenset(path.stem for path in self.root.glob("stages/*/[!._]*.parquet"))

    def attempts(self) -> dict[str, int]:
        """Number of attempts recorded so far, by stage id."""
        latest: dict[str, int] = {}
        for stage, number in self.attempt_keys():
            latest[stage] = max(latest.get(stage, 0), number)
        return latest

    def attempt_keys(self) -> set[tuple[str, int]]:
        """Stage id and number of every attempt that has a row."""
        names = [path.stem.rpartition("-") for path in self.root.glob("attempts/[!._]*.parquet")]
        return {(stage, int(number)) for stage, _, number in names if number.isdecimal()}

    def stage_row(self, stage_id: str) -> Row:
        """The row of a finished stage.

        Raises:
            KeyError: the stage is not finished.
        """
        for path in self.root.glob(f"stages/*/{stage_id}.parquet"):
            row: Row = pq.read_table(path).to_pylist()[0]
            return row
        raise KeyError(stage_id)

    # -- ledgers of meters at work, and of what was killed ---------------------------------------------------------

    def ledger(self, run: str, node: str) -> Path:
        """Where the meter of a node keeps its ledger during a run (see `energyaware.energy.ledger_file`)."""
        return self.root / LEDGERS / f"{run}-{node}.json"

    def ledgers(self) -> list[Path]:
        """All ledgers that were not taken over into the tables yet."""
        return sorted(self.root.glob(f"{LEDGERS}/[!._]*.json"))

    # -- texts and artifacts ---------------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file at the folder's top."""
        with self._incoming(name) as path:
            path.write_text(text)

    @contextmanager
    def new_artifact(self, stage_id: str) -> Iterator[Path]:
        """A folder to fill; it becomes the stage's artifact when the block ends without an error."""
        staging = self.root / INCOMING / f"artifact-{stage_id}-{uuid4().hex}"
        staging.mkdir(parents=True)
        try:
            yield staging
            final = self.artifact(stage_id)
            final.parent.mkdir(exist_ok=True)
            for path in staging.rglob("*"):
                _flush(path)
            if final.exists():  # of an attempt that died after this point; only a finished stage's is ever read
                shutil.rmtree(final)
            staging.replace(final)
            _flush(final.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def artifact(self, stage_id: str) -> Path:
        """Where a stage's adapter or weights lie."""
        return self.root / "artifacts" / stage_id

    @contextmanager
    def scratch(self, stage_id: str) -> Iterator[Path]:
        """A folder for what is not kept, shared by the workers of one stage; emptied first, removed after."""
        path = self.scratch_folder(stage_id)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def scratch_folder(self, stage_id: str) -> Path:
        """Where `scratch` made the folder."""
        return self.root / INCOMING / f"scratch-{stage_id}"

    def clear_incoming(self) -> None:
        """Remove what interrupted writes left behind."""
        shutil.rmtree(self.root / INCOMING, ignore_errors=True)
        (self.root / INCOMING).mkdir(parents=True, exist_ok=True)

    # -- atomic writes ---------------------------------------------------------------------------------------------

    def _write(self, name: str, table: pa.Table) -> None:
        with self._incoming(name) as path:
            pq.write_table(table, path)

    @contextmanager
    def _incoming(self, name: str) -> Iterator[Path]:
        """A path to write to, moved to `name` when the block ends without an error."""
        final = self.root / name
        staging = self.root / INCOMING / f"{final.name}-{uuid4().hex}"
        staging.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield staging
            _flush(staging)
            final.parent.mkdir(parents=True, exist_ok=True)
            staging.replace(final)
            _flush(final.parent)
        finally:
            staging.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the file's or folder's content on the disk before anything is built on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

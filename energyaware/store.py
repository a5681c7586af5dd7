"""The results of a sweep: append-only, one small file per finished thing, in a folder or on object storage.

Nothing in it is ever half-written: what a reader can see was complete when it appeared. A stage's row in `stages/` is
written last, so its presence means that everything else of the stage is there.
"""

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from energyaware.arrow import to_table
from energyaware.artifacts import fetch_artifact, put_artifact
from energyaware.energy.ledger_file import FOLDER as LEDGERS
from energyaware.energy.ledger_file import LedgerPlace
from energyaware.errors import Fenced, InputError, StorageError
from energyaware.files import INCOMING, open_files
from energyaware.files_local import move_folder
from energyaware.lease import newest_lease
from energyaware.patience import PATIENT, Patience, cause_of
from energyaware.points import reached
from energyaware.rows import Row

COMPACTED: Final = "compacted-"
"""How the names of files begin that hold rows of many."""

AT_FIRST: Final = Patience(away_s=5.0, full_s=0.0)
"""Before anything has started, a wrong address or a full disk is told rather than waited for."""

PROBES: Final = 5
"""Of results that seem to overwrite: a run that holds them sweeps the probe away when it begins and when it ends."""


class Store:
    """Reads and writes the results under one root.

    Args:
        root: a folder (local or shared file system), or a URL of object storage.

    Attributes:
        files: what lies there, by name.
        root: the folder; None for object storage.

    Raises:
        InputError: the URL is of a storage that cannot be used.
    """

    def __init__(self, root: Path | str) -> None:
        self.files = open_files(root)
        self.root = self.files.local
        self._lease: int | None = None

    @property
    def url(self) -> str:
        """The root, as it is given on the command line."""
        return self.files.url

    def create(self) -> None:
        """Make the folder, and try whether it keeps what it is given.

        Raises:
            InputError: it cannot be made or written to, or takes a file twice.
        """
        files = self.files.with_patience(AT_FIRST)
        probe = f"{INCOMING}/probe-{uuid4().hex}"
        try:
            for _ in range(PROBES):
                once, twice = files.create(probe, b"1"), files.create(probe, b"2")
                files.remove(probe)
                if once and not twice:
                    return
                time.sleep(0.1)
        except StorageError as problem:
            cause = problem.__cause__
            why = cause_of(cause if isinstance(cause, Exception) else problem)
            raise InputError(self.url, "results", f"cannot be written to: {why}") from None
        problem_is = "overwrites what it was asked to create only where there is nothing: two runs could mix"
        raise InputError(self.url, "results", problem_is)

    def fence(self, number: int | None) -> None:
        """From now on, in copies of this object too, write only while no newer lease is there; None: always."""
        self._lease = number

    # -- rows ------------------------------------------------------------------------------------------------------

    def commit_stage(self, row: Row, *, replace: bool = False) -> bool:
        """Write the row that says the stage is finished. Call it last.

        Args:
            row: of the stages table.
            replace: put it in the place of an earlier one, which is kept in `superseded/`.

        Returns:
            Whether it is there now; False if another has committed the stage.

        Raises:
            Fenced: another launcher holds the results.
            StorageError: it cannot be written.
        """
        self.check_fence()
        stage_id = row["stage_id"]
        name, content = f"stages/{row['kind']}/{stage_id}.parquet", _parquet(to_table("stages", [row]))
        earlier = self._committed(stage_id) if replace else None
        if earlier is not None:
            attempt = earlier["attempt"][0].as_py()
            self.files.create(f"superseded/{stage_id}-{attempt}.parquet", _parquet(earlier))
        if replace:
            self.files.write(name, content, point="row-unmoved")
        elif stage_id in self._compacted_stages() or not self.files.create(name, content, point="row-unmoved"):
            return False
        reached("row-moved")
        return True

    def write_rows(self, table: str, name: str, rows: list[Row]) -> None:
        """Write one file of rows of attempts, epochs, quality or energy; no rows, no file.

        Raises:
            Fenced: another launcher holds the results.
            StorageError: it cannot be written.
        """
        if rows:
            self.check_fence()
            self.files.write(f"{table}/{name}.parquet", _parquet(to_table(table, rows)))

    def write_plan(self, rows: list[Row]) -> None:
        """Replace the record of what is asked for now."""
        self.check_fence()
        self.files.write("plan.parquet", _parquet(to_table("plan", rows)))

    def finished(self) -> frozenset[str]:
        """Ids of the stages whose row is there."""
        names = _parquet_files(self.files.names("stages"))
        alone = (PurePosixPath(name).stem for name in names if not _is_compacted(name))
        return frozenset(alone) | self._compacted_stages(names)

    def attempts(self) -> dict[str, int]:
        """Number of attempts recorded so far, by stage id."""
        latest: dict[str, int] = {}
        for stage, number in self.attempt_keys():
            latest[stage] = max(latest.get(stage, 0), number)
        return latest

    def attempt_keys(self) -> set[tuple[str, int]]:
        """Stage id and number of every attempt that has a row."""
        names = _parquet_files(self.files.names("attempts"))
        alone = [PurePosixPath(name).stem.rpartition("-") for name in names if not _is_compacted(name)]
        keys = {(stage, int(number)) for stage, _, number in alone if number.isdecimal()}
        for name in filter(_is_compacted, names):
            columns = self._read(name, ["stage_id", "attempt"]).to_pydict()
            keys |= set(zip(columns["stage_id"], columns["attempt"], strict=True))
        return keys

    def stage_row(self, stage_id: str) -> Row:
        """The row of a finished stage.

        Raises:
            KeyError: the stage is not finished.
        """
        if (table := self._committed(stage_id)) is None:
            raise KeyError(stage_id)
        row: Row = table.to_pylist()[0]
        return row

    # -- ledgers of meters at work, and of what was killed ---------------------------------------------------------

    def ledger(self, run: str, node: str) -> LedgerPlace:
        """Where the meter of a node keeps its ledger during a run (see `energyaware.energy.ledger_file`)."""
        return LedgerPlace(self.files, f"{LEDGERS}/{run}-{node}.json")

    def ledgers(self) -> list[LedgerPlace]:
        """All ledgers that were not taken over into the tables yet."""
        return [LedgerPlace(self.files, name) for name in self.files.names(LEDGERS) if name.endswith(".json")]

    # -- texts and artifacts ---------------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file at the top."""
        self.check_fence()
        self.files.write(name, text.encode())

    def read_text(self, name: str) -> str | None:
        """Content of a text file; None if there is none."""
        try:
            return self.files.read(name).decode()
        except FileNotFoundError:
            return None

    @contextmanager
    def new_artifact(self, stage_id: str) -> Iterator[Path]:
        """A folder to fill; it becomes the stage's artifact when the block ends without an error."""
        staging = self._workplace() / f"artifact-{stage_id}-{uuid4().hex}"
        staging.mkdir(parents=True)
        try:
            yield staging
            self.check_fence()
            reached("artifact-unmoved")
            if self.root is None:
                put_artifact(self.files, f"artifacts/{stage_id}", staging)
            else:
                final = self.root / "artifacts" / stage_id
                PATIENT.until_done(lambda: move_folder(staging, final), str(final), "written")
            reached("artifact-moved")
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def artifact(self, stage_id: str) -> Path:
        """Where a stage's adapter or weights lie; of object storage, a copy on this machine.

        Raises:
            StorageError: there is none on the object storage, or it cannot be read.
        """
        if self.root is None:
            return fetch_artifact(self.files, f"artifacts/{stage_id}")
        return self.root / "artifacts" / stage_id

    @contextmanager
    def scratch(self, stage_id: str) -> Iterator[Path]:
        """A folder for what is not kept, shared by the workers of one stage; emptied first, removed after.

        For object storage it is a machine's own, and so is shared by the workers there.
        """
        path = self.scratch_folder(stage_id)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def scratch_folder(self, stage_id: str) -> Path:
        """Where `scratch` made the folder."""
        return self._workplace() / f"scratch-{stage_id}"

    def clear_incoming(self) -> None:
        """Remove what interrupted writes left behind."""
        self.files.remove_folder(INCOMING)
        shutil.rmtree(self._workplace(), ignore_errors=True)

    # -- what the above is made of ---------------------------------------------------------------------------------

    def _workplace(self) -> Path:
        """A folder of a file system for what is not finished: on that of the results, where they lie on one."""
        if self.root is not None:
            return self.root / INCOMING
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
        place = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        return _own(Path(tempfile.gettempdir()) / f"energyaware-{user}") / place

    def check_fence(self) -> None:
        """Raises Fenced if another launcher holds the results by now."""
        if self._lease is not None and (newest := newest_lease(self.files)) > self._lease:
            raise Fenced(f"{self.url}: another run took the results over (lease {newest}, this one had {self._lease})")

    def _committed(self, stage_id: str) -> pa.Table | None:
        """The row of a finished stage, as a table of one row."""
        names = _parquet_files(self.files.names("stages"))
        for name in names:
            if PurePosixPath(name).stem == stage_id:
                return self._read(name)
        for name in sorted(filter(_is_compacted, names), reverse=True):
            table = self._read(name)
            if (rows := table.filter(pc.equal(table["stage_id"], stage_id))).num_rows:
                return rows.slice(rows.num_rows - 1)
        return None

    def _compacted_stages(self, names: list[str] | None = None) -> frozenset[str]:
        every = _parquet_files(self.files.names("stages")) if names is None else names
        ids = (self._read(name, ["stage_id"])["stage_id"].to_pylist() for name in every if _is_compacted(name))
        return frozenset(stage_id for some in ids for stage_id in some)

    def _read(self, name: str, columns: list[str] | None = None) -> Any:
        try:
            return pq.read_table(pa.BufferReader(self.files.read(name)), columns=columns)
        except pa.ArrowException as problem:
            why = (
                f"is no table that can be read ({cause_of(problem)}); take it away, and what it held is measured again"
            )
            raise InputError(f"{self.url}/{name}", "", why) from None


def _own(folder: Path) -> Path:
    """The folder, made in one where all users may make any; not if another could have put something into it."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    ours = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
    if not stat.S_ISDIR(found.st_mode) or not ours:
        why = "is a link, another user's, or writable by others; remove it, or set TMPDIR to a folder of your own"
        raise StorageError(f"{folder}: {why}")
    return folder


def _parquet_files(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".parquet")]


def _is_compacted(name: str) -> bool:
    return PurePosixPath(name).name.startswith(COMPACTED)


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content

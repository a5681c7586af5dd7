"""Files of a local or shared folder: each is written elsewhere, flushed, and moved or linked to its name."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeVar
from uuid import uuid4

from energyaware.files import INCOMING, is_hidden
from energyaware.patience import PATIENT, Patience, Trouble, trouble_of
from energyaware.points import reached

NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems without hard links answer to one: FAT, some FUSE and SMB mounts."""

RESERVED_S: Final = 60.0
"""A reservation that is older was left by somebody who was killed."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class LocalFiles:
    """As `energyaware.files.Files`.

    Attributes:
        root: absolute path of the folder; it need not be there yet.
        patience: with storage that is away or full.
    """

    root: Path
    patience: Patience = PATIENT

    @property
    def url(self) -> str:
        return str(self.root)

    @property
    def local(self) -> Path:
        return self.root

    def with_patience(self, patience: Patience) -> LocalFiles:
        return replace(self, patience=patience)

    def names(self, folder: str) -> list[str]:
        def visible() -> list[str]:
            names = (path.relative_to(self.root).as_posix() for path in _files_below(self.root / folder))
            return sorted(name for name in names if not is_hidden(name))

        return self._patiently(visible, folder, "read")

    def read(self, name: str) -> bytes:
        def content() -> bytes:
            try:
                return (self.root / name).read_bytes()
            except NotADirectoryError as problem:
                raise FileNotFoundError(*problem.args) from None

        return self._patiently(content, name, "read")

    def write(self, name: str, content: bytes, *, point: str | None = None) -> None:
        self._place(name, lambda path: _write(path, content), Path.replace, point)

    def create(self, name: str, content: bytes, *, point: str | None = None) -> bool:
        return self._place(name, lambda path: _write(path, content), link_new, point)

    def remove(self, name: str) -> None:
        self._patiently(lambda: (self.root / name).unlink(missing_ok=True), name, "removed")

    def remove_folder(self, folder: str) -> None:
        self._patiently(lambda: _remove_tree(self.root / folder), folder, "removed")

    def put(self, source: Path, folder: str) -> None:
        for path in _files_below(source):
            name = f"{folder}/{path.relative_to(source).as_posix()}"
            self._place(name, lambda staged, path=path: _copy(path, staged), Path.replace)  # type: ignore[misc]

    def get(self, folder: str, target: Path) -> None:
        def copy() -> None:
            for path in _files_below(self.root / folder):
                copied = target / path.relative_to(self.root / folder)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copied)

        self._patiently(copy, folder, "read")

    def _place(
        self,
        name: str,
        fill: Callable[[Path], None],
        move: Callable[[Path, Path], Result],
        point: str | None = None,
    ) -> Result:
        """Write a file in the hidden folder, and have `move` bring it to its name.

        The staged file stays the same while moving it meets trouble, so that `move` can tell its own earlier success,
        of which a server's answer was lost, from another's.
        """
        final = self.root / name
        staged = self.root / INCOMING / f"{uuid4().hex}-{final.name[-100:]}"
        filled = False

        def place() -> Result:
            nonlocal filled
            if not filled:
                staged.parent.mkdir(parents=True, exist_ok=True)
                fill(staged)
                filled = True
            final.parent.mkdir(parents=True, exist_ok=True)
            if point:
                reached(point)
            try:
                return move(staged, final)
            except FileNotFoundError:
                filled = False  # another launcher swept the hidden folder
                raise

        try:
            result = self._patiently(place, name, "written", _trouble_of_writing)
            self._patiently(lambda: _flush(final.parent), name, "written", _trouble_of_writing)
        finally:
            _discard(staged)
        return result

    def _patiently(
        self,
        action: Callable[[], Result],
        name: str,
        doing: Literal["read", "written", "removed"],
        trouble: Callable[[Exception], Trouble | None] = trouble_of,
    ) -> Result:
        return self.patience.until_done(action, str(self.root / name), doing, trouble)


def link_new(staged: Path, final: Path) -> bool:
    """Give a file a name that is free, and say whether it was. Of two processes, on NFS too, one wins.

    The file may keep the name that it had.
    """
    try:
        os.link(staged, final)
    except FileExistsError:
        return _same_file(staged, final)  # NFS repeats requests whose answer was lost, and then refuses its own link
    except OSError as problem:
        if problem.errno not in NO_LINKS:
            raise
        return reserve_new(staged, final)
    return True


def reserve_new(staged: Path, final: Path) -> bool:
    """The same where there are no hard links: whoever makes a file beside the name may move, and removes it.

    One who was killed between leaves the reservation. It counts as left when it is older than `RESERVED_S` by the
    storage's own clock, which stamped the staged file too.
    """
    reservation = final.with_name(f".{final.name}.reserved")
    while not final.exists():
        try:
            os.close(os.open(reservation, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            os.utime(staged)
            if _age_s(reservation, staged) > RESERVED_S:
                reservation.unlink(missing_ok=True)
            time.sleep(0.02)
            continue
        try:
            if final.exists():
                return False
            staged.replace(final)
            return True
        finally:
            reservation.unlink(missing_ok=True)
    return False


def move_folder(staged: Path, final: Path) -> None:
    """Put a folder, whole, in the place of another or of none. It bears repetition."""
    if staged.exists():
        for path in (*staged.rglob("*"), staged):
            _flush(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        replaced = staged.with_name(f"{staged.name}-replaced")
        if final.exists():
            final.replace(replaced)
        staged.replace(final)
        shutil.rmtree(replaced, ignore_errors=True)
    _flush(final.parent)


def _age_s(path: Path, now: Path) -> float:
    try:
        return now.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def _files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder; none if there is no such folder. What vanishes meanwhile is left out."""

    def unless_gone(problem: OSError) -> None:
        if not isinstance(problem, FileNotFoundError | NotADirectoryError):
            raise problem

    for parent, _, names in os.walk(folder, onerror=unless_gone):
        yield from (Path(parent, name) for name in names)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    _flush(target)


def _flush(path: Path) -> None:
    """Have the file's or folder's content on the disk before anything is built on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_tree(folder: Path) -> None:
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:  # somebody else removes it too
            continue


def _discard(staged: Path) -> None:
    try:
        staged.unlink(missing_ok=True)
    except OSError:  # the next launch sweeps the hidden folder
        return


def _trouble_of_writing(problem: Exception) -> Trouble | None:
    """A folder that has just been made and is not there, or was when it was made, is being swept."""
    if isinstance(problem, FileExistsError):
        return "lasting" if Path(problem.filename).is_file() else "away"
    return "away" if isinstance(problem, FileNotFoundError) else trouble_of(problem)

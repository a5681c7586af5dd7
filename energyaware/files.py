"""Where results lie: a folder of a local or shared file system, or object storage by its fsspec URL."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from energyaware.errors import StorageError
from energyaware.patience import Patience

INCOMING: Final = ".incoming"
"""Folder of unfinished writes below a root, hidden from every listing."""


class Files(Protocol):
    """Files under one root, by name: relative, with forward slashes. What can be seen under a name is whole.

    Implementations are picklable and hold no open connection when they are: every worker gets one. Storage that is away
    is waited for; what is not back by then, or full, is a StorageError that names the file.
    """

    @property
    def url(self) -> str:
        """The root, as people give it."""

    @property
    def local(self) -> Path | None:
        """The root as a folder of this machine's file system; None for object storage."""

    def names(self, folder: str) -> list[str]:
        """Names of all files below a folder, sorted; hidden ones (any part starting with . or _) left out."""

    def read(self, name: str) -> bytes:
        """Content of a file.

        Raises:
            FileNotFoundError: there is none.
        """

    def write(self, name: str, content: bytes, *, point: str | None = None) -> None:
        """Write a file, in place of what is there. `point` (see `energyaware.points`) is just before it can be seen."""

    def create(self, name: str, content: bytes, *, point: str | None = None) -> bool:
        """Write a file that is not there yet. False, and nothing written, if it is: of two who try, one wins."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing if there is none."""

    def remove_folder(self, folder: str) -> None:
        """Remove all files below a folder, hidden ones too; nothing if there is none."""

    def put(self, source: Path, folder: str) -> None:
        """Copy the files of a local folder, with those below it, to a folder here."""

    def get(self, folder: str, target: Path) -> None:
        """Copy all files below a folder, hidden ones too, to a local one."""

    def with_patience(self, patience: Patience) -> Files:
        """The same files, for one who waits longer or less long."""


def open_files(root: str | Path) -> Files:
    """The files under a folder, or under a URL of object storage.

    Raises:
        InputError: the URL is of a storage that cannot be used, or what reads it is not installed.
    """
    if "://" not in str(root) or str(root).startswith("file://"):
        from energyaware.files_local import LocalFiles

        return LocalFiles(Path(str(root).removeprefix("file://")).expanduser().resolve())
    from energyaware.files_object import open_object_files

    return open_object_files(str(root))


def is_hidden(name: str) -> bool:
    """Whether any part of a name starts with `.` or `_`."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def path_below(folder: Path, name: str) -> Path:
    """Where a file of that name lies below a local folder.

    Raises:
        StorageError: the name, which may come from a bucket that others write to, leads out of it.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise StorageError(f"{name}: is no name of a file of ours")
    return folder / relative

"""Where results lie: a folder of a local or shared file system, or object storage by its fsspec URL."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


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

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of what is there."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there yet. False, and nothing written, if it is: of two who try, one wins."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing if there is none."""

    def remove_folder(self, folder: str) -> None:
        """Remove all files below a folder; nothing if there is none."""

    def put(self, source: Path, folder: str) -> None:
        """Copy the files of a local folder, with those below it, to a folder here."""

    def get(self, folder: str, target: Path) -> None:
        """Copy all files below a folder to a local one."""

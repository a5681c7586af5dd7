"""Artifacts on object storage, where no folder can be moved: put file by file, and fetched once per machine.

What makes one whole is its manifest, which is removed first and written last.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Final
from uuid import uuid4

from energyaware.errors import StorageError
from energyaware.files import Files, path_below
from energyaware.node_cache import cache_folder

MANIFEST: Final = "_manifest.json"
"""Names the version of an artifact, and its files with their sizes in bytes."""


def put_artifact(files: Files, folder: str, source: Path) -> None:
    """Put a local folder in the place of an artifact.

    Raises:
        StorageError: it cannot be written.
    """
    sizes = {path.relative_to(source).as_posix(): path.stat().st_size for path in source.rglob("*") if path.is_file()}
    files.remove(f"{folder}/{MANIFEST}")
    files.remove_folder(folder)
    files.put(source, folder)
    files.write(f"{folder}/{MANIFEST}", json.dumps({"version": uuid4().hex, "files": sizes}).encode())


def fetch_artifact(files: Files, folder: str) -> Path:
    """A local copy of an artifact, shared by all processes of this machine.

    Raises:
        StorageError: it cannot be read, or is not whole.
    """
    from filelock import FileLock

    try:
        manifest = json.loads(files.read(f"{folder}/{MANIFEST}"))
    except FileNotFoundError:
        raise StorageError(f"{files.url}/{folder}: is not whole; its stage has to be run again") from None
    copies = cache_folder() / "artifacts" / hashlib.sha256(f"{files.url}/{folder}".encode()).hexdigest()[:16]
    copies.mkdir(parents=True, exist_ok=True)
    copy = path_below(copies, manifest["version"])
    with FileLock(copies / ".lock"):
        if not _is_whole(copy, manifest["files"]):
            shutil.rmtree(copy, ignore_errors=True)
            files.get(folder, copy)
            (copy / MANIFEST).unlink(missing_ok=True)
            if not _is_whole(copy, manifest["files"]):
                raise StorageError(f"{files.url}/{folder}: is being replaced, or files of it are gone")
    return copy


def _is_whole(copy: Path, sizes: dict[str, int]) -> bool:
    """Cleaners of temporary files, and kills while fetching, leave parts."""
    paths = {path_below(copy, name): size for name, size in sizes.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

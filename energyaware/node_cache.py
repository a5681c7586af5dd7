"""This machine's own cache: what is made, or copied from a file system of the network, once for all of its processes.

Entries are named by what pins their content, and appear whole or not at all: each is filled under a hidden name and
then renamed. Any of them may be deleted at any time when nothing runs; it is filled again when it is wanted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from glob import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from energyaware.errors import InputError

NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "smb3", "wekafs"}
    | {"afpfs", "smbfs"}  # as macOS calls them
)
"""Types of file systems that other machines hold."""

LOCAL_FUSE: Final = frozenset({"fuse.fuse-overlayfs", "fuse.bindfs", "fuse.lxcfs", "fuse.portal"})
"""Those that programs of this machine hold; others of the kind fuse.NAME (sshfs, gcsfuse, juicefs) reach a network."""

KEPT_FREE: Final = 0.1
"""Share of the cache's disk that copies leave free: what is larger is read where it lies."""


def cache_folder() -> Path:
    """Where energyaware keeps what it can make again: $ENERGYAWARE_CACHE, or energyaware in the user's cache folder."""
    if named := os.environ.get("ENERGYAWARE_CACHE"):
        return Path(named).expanduser()
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users else Path.home() / ".cache") / "energyaware"


def kept(folder: Path, fill: Callable[[Path], None]) -> Path:
    """That folder of the cache, filled first where it is not there yet.

    Processes that ask at the same time wait for the one that fills it. What one that was killed left half-filled is
    removed by the next that asks.

    Args:
        folder: to be had; its name says what pins its content.
        fill: given an empty folder, puts the content there.

    Raises:
        InputError: it cannot be filled.
    """
    from filelock import FileLock

    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            for left in folder.parent.glob(f".{escape(folder.name)}-*"):
                shutil.rmtree(left, ignore_errors=True)
            if not folder.exists():
                _fill(folder, fill)
    except OSError as error:
        problem = f"cannot be filled ({error}); ENERGYAWARE_CACHE names another folder"
        raise InputError(folder.parent, "", problem) from error
    return folder


def _fill(folder: Path, fill: Callable[[Path], None]) -> None:
    unfinished = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def near(files: Sequence[Path], kind: str, name: str, check: Callable[[Sequence[Path]], None]) -> list[Path]:
    """The files where they lie, or where that is on another machine, copies of them in this machine's cache.

    A copy is made once, and only where the cache is on a disk of this machine with room for it.

    Args:
        files: to be read, each by many processes and many times.
        kind: folder of the cache.
        name: what pins the content of all of them.
        check: raises where the copies are not what was to be copied, which then are not kept.

    Raises:
        InputError: the copies cannot be made.
        Exception: of `check`.
    """
    folder = cache_folder() / kind / name
    copies = _copies(files, folder)
    if folder.exists():
        return copies
    if not any(on_network(file.parent) for file in files) or on_network(cache_folder()) or not _fits(files):
        return list(files)

    def copy(to: Path) -> None:
        made = _copies(files, to)
        for file, its_copy in zip(files, made, strict=True):
            its_copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, its_copy)
        check(made)

    kept(folder, copy)
    return copies


def _copies(files: Sequence[Path], folder: Path) -> list[Path]:
    """Files of one folder keep their names; where they come from several, those may be the same."""
    together = len({file.parent for file in files}) == 1
    return [folder / ("" if together else str(index)) / file.name for index, file in enumerate(files)]


def _fits(files: Sequence[Path]) -> bool:
    place = cache_folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(place)
    except OSError:
        return False
    return sum(file.stat().st_size for file in files) < disk.free - KEPT_FREE * disk.total


def on_network(path: Path, mounts: Sequence[tuple[str, str]] | None = None) -> bool:
    """Whether another machine holds the file system that a path is on.

    Args:
        path: need not be there yet.
        mounts: (folder, type) of mounted file systems; this machine's where None. Of two on one folder the last counts.
    """
    if mounts is None:
        import psutil

        mounts = [(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]
    real = path.resolve()
    holding = [
        (len(Path(folder).parts), index) for index, (folder, _) in enumerate(mounts) if real.is_relative_to(folder)
    ]
    if not holding:
        return False
    kind = mounts[max(holding)[1]][1]
    return kind in NETWORK or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)

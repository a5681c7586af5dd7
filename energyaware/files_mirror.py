"""A local copy of tables on object storage, for readers: only what is new or changed is fetched again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from energyaware.files import is_hidden, path_below
from energyaware.files_local import LocalFiles
from energyaware.files_object import AT_ONCE, ObjectFiles, open_object_files
from energyaware.node_cache import cache_folder

INDEX: Final = ".index.json"
"""Of a copy: its files, each with the version that it is a copy of."""


def mirror(url: str, folders: Sequence[str], files_at_top: Sequence[str]) -> Path:
    """Bring the local copy of results on object storage up to date.

    Args:
        url: of the results.
        folders: those that are wanted, with all below them.
        files_at_top: files beside them that are wanted, if they are there.

    Returns:
        The folder with the copy, in the user's cache.

    Raises:
        InputError: the URL is of a storage that cannot be used.
        StorageError: it cannot be read.
    """
    source = open_object_files(url)
    from filelock import FileLock  # behind what says how both libraries are installed

    copy = LocalFiles(cache_folder() / "mirror" / hashlib.sha256(source.url.encode()).hexdigest()[:16])
    copy.root.mkdir(parents=True, exist_ok=True)
    with FileLock(copy.root / ".lock"):
        while not _brought_up_to_date(copy, source, _versions(source, folders, files_at_top)):
            continue
    return copy.root


def _brought_up_to_date(copy: LocalFiles, source: ObjectFiles, wanted: dict[str, str]) -> bool:
    """Whether the copy is now what is wanted; not if a file vanished meanwhile, merged into another perhaps."""
    have = _index(copy)
    new = [name for name, version in wanted.items() if have.get(name) != version]
    for start in range(0, len(new), AT_ONCE):
        try:
            contents = source.read_many(new[start : start + AT_ONCE])
        except FileNotFoundError:
            return False
        for name, content in contents.items():
            path_below(copy.root, name)  # refuses a name that leads out of it
            copy.write(name, content)
    for name in set(copy.names("")) - wanted.keys():
        copy.remove(name)
    copy.write(INDEX, json.dumps(wanted).encode())
    return True


def _versions(source: ObjectFiles, folders: Iterable[str], files_at_top: Iterable[str]) -> dict[str, str]:
    versions = {name: version for name in files_at_top if (version := source.version(name)) is not None}
    for folder in folders:
        versions |= {name: version for name, version in source.versions(folder).items() if not is_hidden(name)}
    return versions


def _index(copy: LocalFiles) -> dict[str, str]:
    """What the copy holds by its index, as far as it is there: caches are cleaned by many."""
    try:
        index: dict[str, str] = json.loads(copy.read(INDEX))
    except (FileNotFoundError, ValueError):
        return {}
    return {name: version for name, version in index.items() if (copy.root / name).is_file()}

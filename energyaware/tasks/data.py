"""The records a study works on: the built-in tickets, the user's files, or a data set of the Hugging Face hub.

A `DataRef` says which, pinned by content; `load_splits` reads it. Nothing that comes with the data is executed: only
CSV, JSON lines and Parquet are read.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from energyaware.errors import InputError
from energyaware.hub import asking_hub
from energyaware.node_cache import near
from energyaware.spec import DataRef, short_hash
from energyaware.tasks import TASKS, Record, tickets
from energyaware.tasks.record_files import LABEL_FIELDS, READERS, read_records

SPLITS: Final = ("train", "validation", "test")
HELD_OUT: Final = 0.1
"""Share of the records that become the test split, and again the validation split, where no file is named for it."""


@dataclass(frozen=True)
class Splits:
    """Records by what they are used for. None of the three is empty."""

    train: list[Record]
    validation: list[Record]
    test: list[Record]


def builtin_ref() -> DataRef:
    """The built-in synthetic fault tickets."""
    return DataRef(kind="builtin", name="tickets", revision=tickets.revision())


def files_ref(
    path: str | Path | None = None,
    *,
    train: str | Path | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> DataRef:
    """The user's own files: either one `path`, which is divided 80/10/10, or `train`, `test` and maybe `validation`.

    Args:
        path: CSV, JSON lines (.jsonl, .ndjson) or Parquet, as are the other three.
        train: file of the training split.
        validation: file of the validation split; a tenth of the training split is taken where None.
        test: file of the test split.
        columns: our field names -> the columns of the data; a field left out has a column of its own name.

    Returns:
        A ref whose revision is a hash of the files' content.

    Raises:
        InputError: a file is missing or of another kind, or a field is unknown.
    """
    named = _named(path, train, validation, test, source="data")
    files = tuple((split, str(_readable(Path(file).expanduser(), split).resolve())) for split, file in named)
    name = ", ".join(Path(file).name for _, file in files)
    return DataRef(kind="files", name=name, revision=_digest(files), columns=_mapping(columns), files=files)


def hub_ref(
    repository: str,
    revision: str = "main",
    path: str | None = None,
    *,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> DataRef:
    """A data set of the Hugging Face hub, downloaded if the hub's cache does not have it.

    Args:
        repository: hub id, `owner/name`.
        revision: branch, tag or commit; the ref holds the commit.
        path: as in `files_ref`, inside the repository. Where no file is named, files are told by their names.
        train: as in `files_ref`.
        validation: as in `files_ref`.
        test: as in `files_ref`.
        columns: as in `files_ref`.

    Raises:
        InputError: the hub does not have it, or which file is which split is not clear.
    """
    folder = _snapshot(repository, revision)
    if path or train or validation or test:
        named = _named(path, train, validation, test, source=repository)
        files = tuple((split, _readable(folder / file, split).relative_to(folder).as_posix()) for split, file in named)
        pinned = f"{folder.name}+{short_hash(json.dumps(files))}"
    else:
        files, pinned = _told_by_name(repository, folder), folder.name
    return DataRef(kind="hub", name=repository, revision=pinned, columns=_mapping(columns), files=files)


def load_splits(ref: DataRef, tasks: Sequence[str]) -> Splits:
    """Reads the records, with the fields that `tasks` need.

    Raises:
        InputError: content other than the ref was made for, a column is missing, a value is empty or of a wrong type,
            a split is empty, fewer than two labels, or a label of the test split that training does not have.
    """
    if ref.kind == "builtin":
        if ref != builtin_ref():
            raise InputError(ref.name, "data", f"revision {ref.revision} was made by another version of energyaware")
        return Splits(*(tickets.tickets(split) for split in ("train", "validation", "test")))
    fields = list(dict.fromkeys(name for task in tasks for name in TASKS[task].fields))
    columns = {name: dict(ref.columns).get(name, name) for name in fields}
    read: dict[str, list[Record]] = {}
    for split, file in local_files(ref):
        read.setdefault(split, []).extend(read_records(file, columns))
    splits = _divided(read)
    _check(ref.name, splits, tasks)
    return splits


def local_files(ref: DataRef) -> list[tuple[str, Path]]:
    """The splits' files on this machine. They are brought there first where they are not, once for all processes.

    Those of the hub are downloaded to the hub's own cache; those on a file system of the network are copied to
    `energyaware.node_cache`.

    Raises:
        InputError: they cannot be had, or their content is other than the ref was made for.
    """
    folder = _snapshot(ref.name, ref.revision.partition("+")[0]) if ref.kind == "hub" else Path()
    files = [(split, _readable(folder / file, split)) for split, file in ref.files]

    def check(read: Iterable[Path]) -> None:
        if ref.kind == "files" and _digest(zip(splits, read, strict=True)) != ref.revision:
            raise InputError(ref.name, _field(splits[0]), "the content has changed since the plan was made")

    splits = [split for split, _ in files]
    lie_at = [file for _, file in files]
    read_at = near(lie_at, "data", ref.revision, check) if files else []
    if read_at == lie_at:
        check(read_at)
    return list(zip(splits, read_at, strict=True))


def _divided(read: Mapping[str, list[Record]]) -> Splits:
    if "all" in read:
        rest, test = _drawn(read["all"], HELD_OUT, "test")
        train, validation = _drawn(rest, HELD_OUT / (1 - HELD_OUT), "validation")
        return Splits(train, validation, test)
    if "validation" in read:
        return Splits(read["train"], read["validation"], read["test"])
    train, validation = _drawn(read["train"], HELD_OUT, "validation")
    return Splits(train, validation, read["test"])


def _drawn(records: list[Record], share: float, salt: str) -> tuple[list[Record], list[Record]]:
    """Divides records into those that stay and a drawn share, by a hash of what every task reads of a record.

    The same ticket with two answers, or listed twice, is thus on one side. At least one ticket is drawn.
    """
    shared = set.intersection(*(set(task.fields) for task in TASKS.values()))

    def key(record: Record) -> str:
        content = [record[name].casefold().split() for name in sorted(shared & record.keys() or record.keys())]
        return short_hash(json.dumps([salt, content]))

    keys = sorted({key(record) for record in records})
    drawn = set(keys[: max(1, round(share * len(keys)))])
    return [r for r in records if key(r) not in drawn], [r for r in records if key(r) in drawn]


def _check(source: str, splits: Splits, tasks: Sequence[str]) -> None:
    for split in SPLITS:
        if not getattr(splits, split):
            raise InputError(source, f"data.{split}", "no records are left for this split; at least one is needed")
    for task in (TASKS[name] for name in tasks if not TASKS[name].generates):
        field = f"data.columns.{next(name for name in task.fields if name in LABEL_FIELDS)}"
        known = {task.example(record).target for record in splits.train}
        if len(known) < 2:  # noqa: PLR2004
            raise InputError(source, field, f"the training split has one label, {known.pop()!r}; at least 2 are needed")
        unknown = sorted({task.example(record).target for record in splits.test} - known)
        if unknown:
            listed = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")  # noqa: PLR2004
            raise InputError(source, field, f"labels of the test split that the training split does not have: {listed}")


def _named(path: Any, train: Any, validation: Any, test: Any, source: str) -> list[tuple[str, Any]]:
    given = [(s, f) for s, f in zip(("all", *SPLITS), (path, train, validation, test), strict=True) if f is not None]
    if [split for split, _ in given] == ["all"] or (path is None and train is not None and test is not None):
        return given
    raise InputError(source, "", "either path alone, or train and test with an optional validation")


def _field(split: str) -> str:
    return "data.path" if split == "all" else f"data.{split}"


def _readable(file: Path, split: str) -> Path:
    if not file.is_file():
        raise InputError(file, _field(split), "is a folder, not a file" if file.is_dir() else "no such file")
    if file.suffix.lower() not in READERS:
        kind = file.suffix or "a file without an ending"
        raise InputError(file, _field(split), f"{kind} is not known; allowed are {', '.join(READERS)}")
    return file


def _mapping(columns: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    fields = sorted({name for task in TASKS.values() for name in task.fields})
    for name in columns or {}:
        if name not in fields:
            raise InputError("data", f"data.columns.{name}", f"no such field; fields are {', '.join(fields)}")
    return tuple(sorted((columns or {}).items()))


def _digest(files: Iterable[tuple[str, str | Path]]) -> str:
    content = []
    for split, file in files:
        with _readable(Path(file), split).open("rb") as stream:
            content.append([split, hashlib.file_digest(stream, "sha256").hexdigest()])
    return short_hash(json.dumps(content))


def _snapshot(repository: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [f"*{ending}" for ending in READERS]
    with asking_hub(repository, "data.hub", f"revision {revision!r}"):
        return Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=patterns))


def _told_by_name(repository: str, folder: Path) -> tuple[tuple[str, str], ...]:
    """The splits by the data files' names, such as data/train-00000-of-00002.parquet or test.csv."""
    words = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "dev": "validation"}
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in READERS)
    found = [(words[w], p) for p in paths for w in re.findall(r"[a-z]+", p.lower()) if w in words]
    if not found and len(paths) == 1:
        return (("all", paths[0]),)
    splits, parents = {split for split, _ in found}, {Path(p).parent for _, p in found}
    if {"train", "test"} <= splits and len(parents) == 1 and len(found) == len({p for _, p in found}):
        return tuple(found)
    raise InputError(
        repository, "data.train", f"name the files of train and test; there are: {', '.join(paths[:20]) or 'none'}"
    )

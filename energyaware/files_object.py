"""Files of object storage that speaks S3, by s3fs. A file appears when its PUT is done; a conditional PUT creates one.

Where it is and who may use it comes from the user's environment, as AWS's own tools take it: AWS_PROFILE,
AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, …
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from energyaware.errors import InputError
from energyaware.files import is_hidden, path_below
from energyaware.patience import PATIENT, Patience, Trouble, trouble_of, without_credentials
from energyaware.points import reached

PROTOCOLS: Final = {"s3": "s3fs", "s3a": "s3fs"}
"""Protocols whose storage can create a file only where there is none, and what has to be installed for them."""

AT_ONCE: Final = 256
"""Files that are asked for together."""

ATTEMPTS: Final = 3
"""Of one request, before a whole file is begun again: a part of a large file is worth repeating by itself."""

Result = TypeVar("Result")


def open_object_files(url: str) -> ObjectFiles:
    """The files under a URL.

    Raises:
        InputError: its storage cannot be used, or what reads it is not installed.
    """
    protocol, _, path = url.partition("://")
    shown = without_credentials(url)
    if protocol not in PROTOCOLS:
        usable = ", ".join(f"{name}://" for name in PROTOCOLS)
        problem = (
            f"{protocol}:// cannot be used: results need storage that can create a file once, {usable} or a folder"
        )
        raise InputError(shown, "results", problem)
    if shown != url:
        problem = "has a password in it; give it by AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise InputError(shown, "results", problem)
    if not path.strip("/"):
        raise InputError(url, "results", "names no bucket: s3://BUCKET/FOLDER")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        raise InputError(url, "results", f"needs {PROTOCOLS[protocol]}: pip install 'energyaware[s3]'") from None
    return ObjectFiles(url.rstrip("/"))


@dataclass(frozen=True)
class ObjectFiles:
    """As `energyaware.files.Files`.

    Attributes:
        url: protocol, bucket and folder.
        patience: with storage that is away or full.
    """

    url: str
    patience: Patience = PATIENT

    @property
    def local(self) -> None:
        return None

    def with_patience(self, patience: Patience) -> ObjectFiles:
        return replace(self, patience=patience)

    def names(self, folder: str) -> list[str]:
        return sorted(name for name in self.versions(folder) if not is_hidden(name))

    def versions(self, folder: str) -> dict[str, str]:
        """Names of all files below a folder, hidden ones too, with what changes whenever the file does."""
        return self._patiently(lambda s3: self._versions(s3, folder), folder, "read")

    def version(self, name: str) -> str | None:
        """The same of one file; None if there is none."""

        def look(s3: Any) -> str | None:
            try:
                return _version(s3.info(self._path(name)))
            except FileNotFoundError:
                return None

        return self._patiently(look, name, "read")

    def read(self, name: str) -> bytes:
        return self.read_many([name])[name]

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Contents of files, many at once.

        Raises:
            FileNotFoundError: one is not there.
        """
        wanted, contents = list(names), dict[str, bytes]()
        for start in range(0, len(wanted), AT_ONCE):
            paths = {self._path(name): name for name in wanted[start : start + AT_ONCE]}
            found = self._patiently(
                lambda s3, paths=paths: s3.cat(list(paths)),  # type: ignore[misc]
                next(iter(paths.values())),
                "read",
            )
            contents |= {paths[path]: content for path, content in _by_path(found, paths).items()}
        return contents

    def write(self, name: str, content: bytes, *, point: str | None = None) -> None:
        if point:
            reached(point)
        self._patiently(lambda s3: s3.pipe_file(self._path(name), content), name, "written")

    def create(self, name: str, content: bytes, *, point: str | None = None) -> bool:
        if point:
            reached(point)
        unsure = False

        def put(_: Any) -> bool:
            nonlocal unsure
            try:
                connected(once=True).pipe_file(self._path(name), content, mode="create")
            except Exception as problem:
                if isinstance(problem, FileExistsError) or _status(problem) == 412:  # noqa: PLR2004
                    return unsure and self._holds(name, content)
                unsure = True  # it may have been written, and the answer lost
                raise
            return True

        return self._patiently(put, name, "written")

    def remove(self, name: str) -> None:
        self._patiently(lambda s3: s3.rm_file(self._path(name)), name, "removed")

    def remove_folder(self, folder: str) -> None:
        def remove(s3: Any) -> None:
            if names := self._versions(s3, folder):
                s3.rm([self._path(name) for name in names])
            if left := self._versions(s3, folder):  # what the storage would not remove is not an error to s3fs
                raise OSError(errno.EIO, f"{len(left)} files are still there")

        self._patiently(remove, folder, "removed")

    def put(self, source: Path, folder: str) -> None:
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            name = f"{folder}/{path.relative_to(source).as_posix()}"
            self._patiently(
                lambda s3, path=path, name=name: s3.put_file(str(path), self._path(name)),  # type: ignore[misc]
                name,
                "written",
            )

    def get(self, folder: str, target: Path) -> None:
        for name in sorted(self.versions(folder)):
            path = path_below(target, name.removeprefix(f"{folder}/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._patiently(
                lambda s3, path=path, name=name: s3.get_file(self._path(name), str(path)),  # type: ignore[misc]
                name,
                "read",
            )

    def _path(self, name: str) -> str:
        return f"{self.url.partition('://')[2]}/{name}".rstrip("/")

    def _versions(self, s3: Any, folder: str) -> dict[str, str]:
        below, root = self._path(folder) + "/", self._path("") + "/"
        try:
            found = s3.find(self._path(folder), detail=True)
        except FileNotFoundError:  # not even a bucket
            return {}
        return {
            path.removeprefix(root): _version(about)
            for path, about in found.items()
            if path.startswith(below) and not path.endswith("/") and about["type"] == "file"
        }

    def _holds(self, name: str, content: bytes) -> bool:
        try:
            return self.read(name) == content
        except FileNotFoundError:
            return False

    def _patiently(
        self, action: Callable[[Any], Result], name: str, doing: Literal["read", "written", "removed"]
    ) -> Result:
        def trouble(problem: Exception) -> Trouble | None:
            if doing == "written" and isinstance(problem, FileNotFoundError):
                return "lasting"  # there is no such bucket
            return _trouble_of(problem)

        return self.patience.until_done(lambda: action(connected()), f"{self.url}/{name}".rstrip("/"), doing, trouble)


def _by_path(found: Any, paths: dict[str, str]) -> dict[str, bytes]:
    """What s3fs gives for several paths, and for one."""
    return found if isinstance(found, dict) else dict.fromkeys(paths, found)


def _version(about: dict[str, Any]) -> str:
    return f"{about['size']} {about['ETag']}"


def _status(problem: BaseException | None) -> int | None:
    """The HTTP status that an error, or what it was translated from, came with."""
    while problem is not None:
        response = getattr(problem, "response", None)
        if isinstance(response, dict):
            status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status
        problem = problem.__cause__
    return None


def _trouble_of(problem: Exception) -> Trouble | None:
    import aiohttp
    from botocore import exceptions as boto

    status = _status(problem)
    if status == 507:  # noqa: PLR2004  # Insufficient Storage
        return "full"
    if status in {408, 409, 425, 429} or (status is not None and status >= 500 and status != 501):  # noqa: PLR2004
        return "away"
    if isinstance(
        problem,
        boto.HTTPClientError
        | boto.ConnectionError
        | boto.IncompleteReadError
        | boto.ResponseStreamingError
        | aiohttp.ClientError,
    ):
        return "away"
    if isinstance(problem, boto.BotoCoreError | boto.ClientError | ValueError):
        return "lasting"
    return trouble_of(problem)


_CONNECTIONS: dict[tuple[int, int, bool], Any] = {}
_CONNECTING = threading.Lock()


def connected(*, once: bool = False) -> Any:
    """This process's connection, by what the environment says now; `once` tries a request only one time.

    One that was inherited by forking is left alone: its event loop did not come along.
    """
    environment = hash(frozenset(item for item in os.environ.items() if item[0].startswith("AWS_")))
    key = (os.getpid(), environment, once)
    with _CONNECTING:
        if key not in _CONNECTIONS:
            from s3fs import S3FileSystem

            s3 = S3FileSystem(
                use_listings_cache=False,
                skip_instance_cache=True,
                config_kwargs={"retries": {"total_max_attempts": 1 if once else ATTEMPTS}},
            )
            s3.retries = 1
            s3.connect()
            _CONNECTIONS[key] = s3
        return _CONNECTIONS[key]


def _new_lock() -> None:
    global _CONNECTING  # noqa: PLW0603
    _CONNECTING = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)

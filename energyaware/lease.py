"""Who writes to the results: one launcher at a time, by numbered files, `lease/<number>.json`.

A lease is taken by creating the file of the next number, which one of several wins; the highest number holds the
results, and fences off all before it. Its holder rewrites it at each heartbeat. One that is left behind by a launcher
that was killed is taken over: at once where this machine can see that its process is gone, else after a silence.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

import psutil

from energyaware.errors import Fenced, InputError, StorageError
from energyaware.files import Files
from energyaware.rows import Row

FOLDER: Final = "lease"
"""Of the results."""

BEATS: Final = 3
"""A holder that has missed so many while it was watched is silent, however old its last one looks: clocks differ."""

LOOKS: Final = 5
"""At a lease that is watched, in one of its heartbeats."""

log = logging.getLogger(__name__)


def this_process(arguments: Sequence[str] | None = None) -> Row:
    """What a lease says of its holder: host, pid, user, command, started_at."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "user": _user(),
        "command": shlex.join(sys.argv if arguments is None else arguments),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def newest_lease(files: Files) -> int:
    """The highest number; 0 if there has been none."""
    return max(_numbers(files), default=0)


class Lease:
    """Results that are held by this process, from `take` until `release` or the end of its `with` block.

    Attributes:
        number: grows from holder to holder: the fencing number.
        lost: set when somebody else was found to hold the results.
    """

    def __init__(self, files: Files, number: int, content: Row) -> None:
        self.number, self.lost = number, threading.Event()
        self._files, self._content = files, content
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, files: Files, about: Row, *, heartbeat_s: float = 5.0, stale_s: float = 30.0) -> Lease:
        """Hold the results.

        Args:
            files: the results.
            about: who takes them, as `this_process` says it.
            heartbeat_s: seconds between signs of life.
            stale_s: a holder on another machine who gives none for so long has lost them.

        Raises:
            InputError: somebody else holds them.
            StorageError: the results cannot be read or written.
        """
        while True:
            newest = newest_lease(files)
            if newest and (holder := _living_holder(files, newest, stale_s)) is not None:
                raise InputError(files.url, "results", _refusal(holder))
            content = about | _identity() | {"number": newest + 1, "heartbeat_s": heartbeat_s, "released": False}
            if not files.create(_name(newest + 1), _written(content)):
                continue
            numbers = _numbers(files)
            if max(numbers) > newest + 1:  # others came and went meanwhile, and removed the file that was to refuse us
                continue
            for number in numbers - {newest + 1}:
                files.remove(_name(number))
            return cls(files, newest + 1, content)

    def check(self) -> None:
        """Make sure that nobody else has taken the results.

        Raises:
            Fenced: somebody has.
            StorageError: that cannot be told.
        """
        if (newest := newest_lease(self._files)) > self.number:
            self.lost.set()
            raise Fenced(f"{self._files.url}: another run took the results over (lease {newest})")

    def release(self) -> None:
        """Let go of the results, so that the next launcher takes them at once."""
        self._stop.set()
        self._thread.join()
        if self.lost.is_set():
            return
        try:
            self._files.write(_name(self.number), _written(self._content | {"released": True}))
        except StorageError as problem:  # it goes stale by itself
            log.warning("the lease cannot be released: %s", problem)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._stop.wait(self._content["heartbeat_s"]):
            try:
                self.check()
                self._files.write(_name(self.number), _written(self._content))
            except Fenced:
                return
            except StorageError as problem:  # it may come back before anybody else can take the results over
                log.warning("no sign of life can be given: %s", problem)


def _living_holder(files: Files, number: int, stale_s: float) -> Row | None:
    """What the lease says, if its holder lives and has not released it."""
    first = _read(files, number)
    if first is None or first.get("released"):
        return None
    if _is_here(first) and (runs := _runs(first)) is not None:
        return first if runs else None
    heartbeat_s = float(first.get("heartbeat_s", stale_s / BEATS))
    silent_s = max(0.0, _age_s(first))
    watch_s = max(BEATS * heartbeat_s, stale_s - silent_s)
    log.info("%s: last sign of life %.0f s ago; watched for %.0f s", _who(first), silent_s, watch_s)
    until_s = time.monotonic() + watch_s
    while time.monotonic() < until_s:
        time.sleep(heartbeat_s / LOOKS)
        now = _read(files, number)
        if now is None or now.get("released"):
            return None
        if now != first:
            return now
    return None


def _read(files: Files, number: int) -> Row | None:
    """What a lease says; None if it is gone. One that is no lease of ours says nothing, and is watched like any."""
    try:
        text = files.read(_name(number))
    except FileNotFoundError:
        return None
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {"text": text.decode(errors="replace")}


def _identity() -> Row:
    started = {"process_started_ticks": _started_ticks(os.getpid())}
    return {"machine": _machine(), "process_started": psutil.Process().create_time()} | started


def _is_here(holder: Row) -> bool:
    """Whether the holder's process number means something to this process. Names of hosts are not unique."""
    return holder.get("machine") == _machine() and isinstance(holder.get("pid"), int)


def _runs(holder: Row) -> bool | None:
    """Whether it does; None if its number is in use, and only clocks that may have been set since say whether by it.

    Leases of older versions have no ticks, and systems without /proc none to compare.
    """
    try:
        process = psutil.Process(holder["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        then, now = holder.get("process_started_ticks"), _started_ticks(holder["pid"])
        if then is not None and now is not None:
            return bool(then == now)
        return True if abs(process.create_time() - holder.get("process_started", 0.0)) < 1.0 else None
    except psutil.NoSuchProcess:
        return False


def _started_ticks(pid: int) -> int | None:
    """When a process was started, by a clock that nobody sets (proc_pid_stat(5)); None where that is not told."""
    try:
        behind_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(behind_name[19])
    except (OSError, IndexError):
        return None


def _machine() -> str:
    """This boot of this machine, and the part of its processes that are seen from here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _age_s(holder: Row) -> float:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(holder["beat_at"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return 0.0


def _refusal(holder: Row) -> str:
    return (
        f"is being written by {_who(holder)}, last sign of life {max(0.0, _age_s(holder)):.0f} s ago; "
        "wait for it, stop it, or use --results"
    )


def _who(holder: Row) -> str:
    since = str(holder.get("started_at", "an unknown time")).replace("T", " ").removesuffix("+00:00")
    return f"{holder.get('user')}@{holder.get('host')}, process {holder.get('pid')}, since {since} UTC"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user number that has no name
        return str(os.getuid())


def _written(content: dict[str, Any]) -> bytes:
    return json.dumps(content | {"beat_at": datetime.now(UTC).isoformat()}, indent=1).encode()


def _name(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _numbers(files: Files) -> set[int]:
    stems = (PurePosixPath(name).stem for name in files.names(FOLDER) if name.endswith(".json"))
    return {int(stem) for stem in stems if stem.isdecimal()}

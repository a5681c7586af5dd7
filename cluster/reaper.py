"""Nothing that a launcher started on this machine outlives it, however it ends.

Ray's own processes notice within seconds or, some, minutes that the launcher is gone. This file is also a program: a
small process that waits for the launcher to go and then ends whatever carries the mark of it in its environment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from uuid import uuid4

import psutil

MARK: Final = "ENERGYAWARE_LAUNCHER"
"""Environment variable that everything carries which was started inside `reaped`."""

GRACE_S: Final = 2.0
"""For what ends by itself, and for what was asked to."""

POLL_S: Final = 0.1


@contextmanager
def reaped() -> Iterator[None]:
    """What is started inside the block ends with it, and with this process, even one that is killed."""
    mark = uuid4().hex
    # It notices the launcher's end by the end of its standard input, which nobody else holds open.
    command = [sys.executable, __file__, mark]
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - our own file
    os.environ[MARK] = mark  # from here on: the reaper itself is to live
    try:
        yield
    finally:
        os.environ.pop(MARK, None)
        if reaper.stdin:
            reaper.stdin.close()
        reaper.wait()


def end_all(mark: str) -> None:
    """End the processes that carry the mark: those that stay are asked after a while, and then killed."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        left = marked(mark)
        for process in left if number else ():
            with suppress(psutil.Error):
                process.send_signal(number or 0)
        deadline_s = time.monotonic() + GRACE_S
        while left and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
            left = [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        if not marked(mark):
            return


def marked(mark: str) -> list[psutil.Process]:
    """Processes of this user that carry the mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdin.read()
    end_all(sys.argv[1])

"""Being asked to stop: once, and running stages leave a checkpoint first; twice, and everything ends now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a system that wants the machine back, a closed terminal."""

PATIENCE_S: Final = 600.0
"""For stages to leave their checkpoints after Ctrl-C: who waits there can press it again."""

SYSTEM_PATIENCE_S: Final = 20.0
"""After other signals: Slurm and Kubernetes kill half a minute after they have asked."""


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Take signals inside the block. To be entered after Ray has set its own handlers.

    The first one calls `stop` in a thread of its own, since the main thread may be anywhere in Ray.

    Raises:
        KeyboardInterrupt: in the main thread, at the second signal, or if the block has not ended long after the first.
    """
    asked, ended = threading.Event(), threading.Event()
    patience_s = PATIENCE_S

    def take(number: int, _: object) -> None:
        nonlocal patience_s
        if asked.is_set():
            raise KeyboardInterrupt
        patience_s = PATIENCE_S if number == signal.SIGINT else SYSTEM_PATIENCE_S
        asked.set()

    def act() -> None:
        asked.wait()
        if ended.is_set():
            return
        stop()
        if not ended.wait(patience_s):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = {number: signal.signal(number, take) for number in NUMBERS}
    threading.Thread(target=act, name="stopping", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        asked.set()
        for number, handler in before.items():
            signal.signal(number, handler)

"""Being asked to stop: once, and running stages leave a checkpoint first; twice, and everything ends now."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Final

from cluster.jobs import JOB_STOP

NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a system that wants the machine back, a closed terminal."""

PATIENCE_S: Final = 600.0
"""For stages to leave their checkpoints after Ctrl-C: who waits there can press it again."""

SYSTEM_PATIENCE_S: Final = 20.0
"""After other signals: Slurm and Kubernetes kill half a minute after they have asked."""

LAST_WORDS_S: Final = 5.0
"""Of the time that Ray gives a job, for ending once all have been waited for."""


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Take signals inside the block. To be entered after Ray has set its own handlers.

    The first one calls `stop` in a thread of its own, since the main thread may be anywhere in Ray.

    Raises:
        KeyboardInterrupt: in the main thread, at the second signal, or if the block has not ended long after the first.
    """
    # Queues of this kind alone may be used by a handler that comes in the middle of their own work, or of another one.
    asked, ended = SimpleQueue[int | None](), SimpleQueue[None]()
    is_asked = False

    def take(number: int, _: object) -> None:
        nonlocal is_asked
        if is_asked:
            raise KeyboardInterrupt
        is_asked = True
        asked.put(number)

    def act() -> None:
        number = asked.get()
        if number is None:
            return
        stop()
        try:
            ended.get(timeout=PATIENCE_S if number == signal.SIGINT else _system_patience_s())
        except Empty:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    # nohup has hangups ignored so that a run outlives its terminal.
    numbers = [number for number in NUMBERS if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)]
    before = {number: signal.signal(number, take) for number in numbers}
    threading.Thread(target=act, name="stopping", daemon=True).start()
    try:
        yield
    finally:
        asked.put(None)
        ended.put(None)
        for number, handler in before.items():
            signal.signal(number, handler)


def _system_patience_s() -> float:
    """As long as whoever asks waits, as far as that is known: Ray tells a job how long it may take to stop."""
    given = os.environ.get(JOB_STOP)
    return max(SYSTEM_PATIENCE_S, float(given) - LAST_WORDS_S) if given else SYSTEM_PATIENCE_S

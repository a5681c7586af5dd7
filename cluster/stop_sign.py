"""A sign that a run is being stopped, which workers on any machine can look at without asking anybody."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import ray

WATCHERS: Final = 10_000
"""Workers that may wait for the sign at once."""


@ray.remote(num_cpus=0, max_concurrency=WATCHERS)
class _Sign:
    def __init__(self) -> None:
        self._raised = asyncio.Event()

    async def wait(self) -> None:
        await self._raised.wait()

    async def raise_it(self) -> None:
        self._raised.set()


class StopSign:
    """To be made by the launcher and handed to workers, where calling it tells whether the run is being stopped.

    Workers wait in the background: to look is to see whether that has ended, and costs no message.
    """

    def __init__(self) -> None:
        self._sign: Any = _Sign.remote()  # type: ignore[attr-defined]
        self._waiting: Any = None

    def __call__(self) -> bool:
        """Whether the sign was raised, or is gone with its launcher."""
        if self._waiting is None:
            self._waiting = self._sign.wait.remote()
        return bool(ray.wait([self._waiting], timeout=0)[0])

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        return _of, (self._sign,)

    def stop(self) -> None:
        """Raise the sign."""
        self._sign.raise_it.remote()


def _of(sign: Any) -> StopSign:
    copy = StopSign.__new__(StopSign)
    copy._sign, copy._waiting = sign, None
    return copy

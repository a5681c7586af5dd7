"""A sign that a run is being stopped, which workers on any machine can look at without asking anybody."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

WATCHERS: Final = 10_000
"""Workers that may wait for the sign at once."""


@ray.remote(num_cpus=0, max_concurrency=WATCHERS)
class _Sign:
    def __init__(self) -> None:
        self._raised: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def wait(self, group: str) -> None:
        await self._raised[group].wait()

    async def raise_it(self, groups: tuple[str, ...]) -> None:
        for group in groups:
            self._raised[group].set()


class StopSign:
    """To be made by the launcher and handed to workers, where calling it tells whether they are to stop.

    Workers wait in the background: to look is to see whether that has ended, and costs no message.

    Args:
        groups: of workers, of which some can be stopped and others not.
    """

    def __init__(self, *groups: str) -> None:
        # With its launcher: on another node it would go with that, and workers everywhere would stop.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._groups, self._sign = groups, _Sign.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._waiting: Any = None

    def of(self, group: str) -> StopSign:
        """As workers of one group look at it."""
        return _of((group,), self._sign)

    def __call__(self) -> bool:
        """Whether the sign was raised, or is gone with its launcher."""
        if self._waiting is None:
            self._waiting = self._sign.wait.remote(self._groups[0])
        return bool(ray.wait([self._waiting], timeout=0)[0])

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _of, (self._groups, self._sign)

    def stop(self, *groups: str) -> None:
        """Raise the sign for these groups; for all, where none is named."""
        self._sign.raise_it.remote(groups or self._groups)


def _of(groups: tuple[str, ...], sign: Any) -> StopSign:
    copy = StopSign.__new__(StopSign)
    copy._groups, copy._sign, copy._waiting = groups, sign, None
    return copy

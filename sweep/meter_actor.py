"""One meter per node, as a Ray actor that outlives stages."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import ray

from energyaware.energy.base import MeterSettings, WindowName
from energyaware.energy.holder import Key
from energyaware.energy.service import NodeService, Post
from energyaware.errors import MeterLost
from energyaware.rows import Row

MAX_RESTARTS: Final = 10
"""Of one node's meter in one run."""

START_S: Final = 120.0
"""For finding the sources and reading idle power."""


@ray.remote(num_cpus=0, max_restarts=MAX_RESTARTS, max_concurrency=8)
class NodeMeter:
    """Meters one node: `energyaware.energy.service.NodeService` in an actor.

    One that was killed comes back by itself, for the stages to come. The attempts that it was metering fail: they are
    unknown to it, and what it had saved of their joules is lost with them.
    """

    def __init__(self, post: Post, settings: MeterSettings) -> None:
        self._post, self._settings = post, settings
        self._starting, self._started = threading.Lock(), threading.Event()
        self._problem: Exception | None = None
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self.start()

    def start(self) -> None:
        """Find the sources and read idle power. Apart, for Ray hides what a constructor raises."""
        with self._starting:  # asked again where an answer was lost on its way
            if not self._started.is_set():  # the successor of one that was killed has started by itself
                try:
                    self._own = NodeService(self._post, self._settings)
                except Exception as problem:
                    self._problem = problem
                self._started.set()
        if self._problem is not None:
            raise self._problem

    @property
    def _service(self) -> NodeService:
        """Waited for by a stage on a node that joined a moment ago."""
        if not self._started.wait(START_S):
            raise MeterLost(f"the meter of {self._post.node} did not start in {START_S:.0f} s")
        if self._problem is not None:
            raise self._problem
        return self._own

    def post(self) -> Post:
        """Where it stands."""
        return self._post

    def begin(self, about: Row, pids: Sequence[int], gpus: Sequence[str], cores: float) -> None:
        """As the service's."""
        self._service.begin(about, pids, gpus, cores)

    def open(self, key: Key, name: WindowName, epoch: int | None, repeat: int | None, from_step: int | None) -> int:
        """As the service's."""
        return self._service.open(key, name, epoch, repeat, from_step)

    def close(self, token: int, requests: int | None) -> None:
        """As the service's."""
        self._service.close(token, requests)

    def end(self, key: Key, *, kept: bool) -> list[Row]:
        """As the service's."""
        return self._service.end(key, kept=kept)

    def forget(self, key: Key) -> None:
        """As the service's."""
        self._service.forget(key)

    def now(self) -> dict[str, Any]:
        """As the service's."""
        return self._service.now()

    def finish(self) -> Row:
        """As the service's."""
        return self._service.finish()

"""The nodes' meters, as the driver and the stages use them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.members import members
from cluster.node import Node
from energyaware.energy.base import MeterSettings, WindowName
from energyaware.energy.holder import Key
from energyaware.energy.service import Post
from energyaware.errors import InputError, MeterLost
from energyaware.rows import Row
from energyaware.store import Store
from sweep.failures import one_line
from sweep.meter_actor import NodeMeter
from sweep.recover import saved_rows

ANSWER_S: Final = 60.0
"""A meter that does not answer for so long is gone with its node."""

LAST_WORDS_S: Final = 10.0
"""For all meters to say what they have at the end of a run; their ledgers are in the results besides."""

WATCH_S: Final = 2.0
"""Between two looks for nodes that joined the cluster."""


@dataclass(frozen=True)
class StageWindows:
    """Opens windows of one attempt at the meter of one node (`energyaware.energy.windows.NodeWindows`)."""

    meter: Any
    key: Key

    def open(self, name: WindowName, epoch: int | None, repeat: int | None, from_step: int | None = None) -> int:
        """Open a window and return its token."""
        token: int = _answer(self.meter.open.remote(self.key, name, epoch, repeat, from_step))
        return token

    def close(self, token: int, requests: int | None) -> None:
        """Close it."""
        _answer(self.meter.close.remote(token, requests))


def _answer(asked: Any) -> Any:
    """What the meter says; a stage cannot go on without one."""
    try:
        return ray.get(asked)
    except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError) as problem:
        raise MeterLost(f"the node's meter died: {type(problem).__name__}") from None


@dataclass(frozen=True)
class Meter:
    """A node's meter, and where it leaves its ledger."""

    actor: Any
    post: Post


@dataclass(frozen=True)
class MeterBook:
    """Finds the meters of a run by Ray's node id, from any of its processes."""

    run: str

    def name(self, node_id: str) -> str:
        """Of the node's meter among the actors of this run."""
        return f"meter-{self.run}-{node_id}"

    def of(self, node_id: str) -> Meter:
        """The node's meter; that of a node which joined a moment ago is waited for.

        Raises:
            MeterLost: there is none.
        """
        deadline_s = time.monotonic() + ANSWER_S
        while True:
            try:
                actor = ray.get_actor(self.name(node_id))
                return Meter(actor, ray.get(actor.post.remote(), timeout=ANSWER_S))
            except (ValueError, ray.exceptions.RayError) as problem:
                if time.monotonic() > deadline_s:
                    raise MeterLost(f"node {node_id[:8]} has no meter: {type(problem).__name__}") from None
                time.sleep(WATCH_S / 4)


class NodeMeters:
    """The meters of a run in its driver: one on every node, also on those that join later.

    Args:
        settings: how to meter.
        store: where ledgers are kept; None keeps none.
        run: name of the run.
        sweep: name of the sweep.
        compute_on_gpus: whether stages will compute on the GPUs they hold.
        idle_rows: rows of the nodes table of earlier runs, whose idle power is good enough.
    """

    def __init__(
        self,
        settings: MeterSettings,
        store: Store | None,
        *,
        run: str,
        sweep: str,
        compute_on_gpus: bool = False,
        idle_rows: Sequence[Row] = (),
    ) -> None:
        self._settings, self._store, self._sweep, self._on_gpus = settings, store, sweep, compute_on_gpus
        self._idle_rows = idle_rows if settings.idle_s > 0 else ()
        self.book = MeterBook(run)
        self._meters: dict[str, Meter] = {}
        self._known: dict[str, Node] = {}
        self._starting: dict[Any, str] = {}
        self._ready: set[str] = set()
        self._refused: list[str] = []
        self._nodes: tuple[Node, ...] = ()
        self._stop = threading.Event()

    def all(self) -> list[Meter]:
        """Those of nodes that are gone, too: their ledgers are not."""
        return list(self._meters.values())

    def started(self) -> list[Meter]:
        """Those that have something to say."""
        return [meter for node_id, meter in list(self._meters.items()) if node_id in self._ready]

    def refused(self) -> list[str]:
        """A line for each node that joined later and gets no stage, for its meter cannot start."""
        return list(self._refused)

    def nodes(self) -> tuple[Node, ...]:
        """Those that are alive and whose idle power is known, for stages; the same object until that changes."""
        return self._nodes

    @property
    def node_ids(self) -> list[str]:
        """Ray's ids of the nodes that have had a meter."""
        return list(self._meters)

    def name_of(self, node_id: str) -> str:
        """Of a node, as it stands in the rows."""
        return self._meters[node_id].post.node if node_id in self._meters else node_id[:8]

    def start(self) -> None:
        """Have a meter on every node of the cluster; each knows its node's idle power when this returns.

        Raises:
            InputError: the settings name a place without data, or a component that a node cannot read; or a meter was
                lost before it had read idle power.
        """
        self._look()
        waiting = list(self._starting)
        while waiting:
            (answer,), waiting = ray.wait(waiting)
            try:
                ray.get(answer)
            except ray.exceptions.RayTaskError as problem:
                raise problem.cause from None
            except ray.exceptions.RayError as problem:
                who = f"the meter of {self.name_of(self._starting[answer])} was lost while it read idle power"
                raise InputError("", "", f"{who}: {type(problem).__name__}; start the sweep again") from None
        self._look()

    def watch(self) -> None:
        """From now on, have one on every node that joins; stages get there once its idle power has been read."""
        threading.Thread(target=self._watch, name="new nodes", daemon=True).start()

    def finish(self) -> list[Row]:
        """Stop metering. Returns the last words of the meters that can still speak."""
        self._stop.set()
        asked = [meter.actor.finish.remote() for meter in self.all()]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=LAST_WORDS_S) if asked else ([], [])
        words = []
        for answer in answered:
            with suppress(ray.exceptions.RayError):  # a signal to all processes of the run ends the meters too
                words.append(ray.get(answer))
        return words

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_S):
            with suppress(ray.exceptions.RayError, ConnectionError):
                self._look()

    def _look(self) -> None:
        """Post a meter on every new node, and see which have started. One that cannot start gets no stage."""
        alive = members(self._known)
        self._known = {node.node_id: node for node in alive}
        for node in alive:
            if node.node_id not in self._meters:
                self._post(node)
        asked = list(self._starting)
        for answer in ray.wait(asked, num_returns=len(asked), timeout=0)[0] if asked else []:
            node_id = self._starting.pop(answer)
            try:
                ray.get(answer)
                self._ready.add(node_id)
            except ray.exceptions.RayTaskError as problem:
                why = one_line(problem.cause)
                self._refused.append(f"{self.name_of(node_id)} gets no stage: its meter cannot start: {why}")
            except ray.exceptions.ActorDiedError:
                if node_id in self._known:
                    self._refused.append(f"{self.name_of(node_id)} gets no stage: its meter died again and again")
            except ray.exceptions.RayError:
                if node_id in self._known:  # Ray starts it anew
                    self._starting[self._meters[node_id].actor.start.remote()] = node_id
        usable = tuple(node for node in alive if node.node_id in self._ready)
        if usable != self._nodes:
            self._nodes = usable

    def _post(self, node: Node) -> None:
        place = self._store.ledger(self.book.run, node.name) if self._store else None
        idle = tuple(row for row in self._idle_rows if row["node"] == node.name)
        post = Post(node.name, self.book.run, self._sweep, place, self._on_gpus, idle)
        actor = NodeMeter.options(  # type: ignore[attr-defined]
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
            name=self.book.name(node.node_id),
        ).remote(post, self._settings)
        self._meters[node.node_id] = Meter(actor, post)
        self._starting[actor.start.remote()] = node.node_id


def answered(ask: Callable[[], Any]) -> Any:
    """What a meter says; one that is being started anew is asked again, for what means the same to its successor."""
    deadline_s = time.monotonic() + ANSWER_S
    while True:
        try:
            return ray.get(ask(), timeout=ANSWER_S)
        except ray.exceptions.ActorUnavailableError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(WATCH_S / 4)


def end(meters: Iterable[Meter], key: Key) -> list[Row]:
    """Rows of all windows of an attempt that finished on these meters' nodes.

    Raises:
        RayError: a meter is gone.
        MeterLost: a meter was started anew meanwhile: the attempt's joules are not known.
    """
    rows = [answered(partial(meter.actor.end.remote, key, kept=True)) for meter in meters]
    if not all(rows):
        raise MeterLost("a node's meter was started anew while the stage ran: its joules are not known")
    return [row for node_rows in rows for row in node_rows]


def end_lost(meters: Iterable[Meter], key: Key, store: Store) -> list[Row]:
    """What meters know of an attempt that ended without a result, or had saved of it when they died."""
    asked = {meter.actor.end.remote(key, kept=False): meter for meter in meters}
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    rows = []
    for answer, meter in asked.items():
        found: list[Row] = []
        if answer in answered:
            with suppress(ray.exceptions.RayError):
                found = ray.get(answer)
        rows += found or saved_rows(store, key, meter.post.node)
    return rows


def forget(meters: Iterable[Meter], key: Key) -> None:
    """The rows of an attempt are in the results."""
    for meter in meters:
        meter.actor.forget.remote(key)

"""The nodes' meters, as the driver and the stages use them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from energyaware.energy.base import MeterSettings, WindowName
from energyaware.energy.holder import Key
from energyaware.energy.service import Post
from energyaware.errors import StageError
from energyaware.rows import Row
from energyaware.store import Store
from sweep.meter_actor import NodeMeter
from sweep.recover import saved_rows

ANSWER_S: Final = 60.0
"""A meter that does not answer for so long is gone with its node."""


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
        raise StageError(f"the node's meter died: {type(problem).__name__}") from None


@dataclass(frozen=True)
class Meter:
    """A node's meter, and where it leaves its ledger."""

    actor: Any
    post: Post


Meters = Mapping[str, Meter]
"""By Ray's node id."""


def end(meters: Iterable[Meter], key: Key) -> list[Row]:
    """Rows of all windows of an attempt that finished on these meters' nodes.

    Raises:
        RayError: a meter is gone.
        StageError: a meter was started anew meanwhile: the attempt's joules are not known.
    """
    rows = ray.get([meter.actor.end.remote(key, kept=True) for meter in meters], timeout=ANSWER_S)
    if not all(rows):
        raise StageError("a node's meter was started anew while the stage ran: its joules are not known")
    return [row for node_rows in rows for row in node_rows]


def end_lost(meters: Iterable[Meter], key: Key, store: Store) -> list[Row]:
    """What meters know of an attempt that ended without a result, or had saved of it when they died."""
    rows = []
    for meter in meters:
        found: list[Row] = []
        with suppress(ray.exceptions.RayError):
            found = ray.get(meter.actor.end.remote(key, kept=False), timeout=ANSWER_S)
        rows += found or saved_rows(store, key, meter.post.node)
    return rows


def forget(meters: Iterable[Meter], key: Key) -> None:
    """The rows of an attempt are in the results."""
    for meter in meters:
        meter.actor.forget.remote(key)


def start_meters(
    settings: MeterSettings, store: Store | None, *, run: str, sweep: str, compute_on_gpus: bool = False
) -> Meters:
    """A meter on every node of the cluster; each knows its node's idle power.

    Args:
        settings: how to meter.
        store: where ledgers are kept; None keeps none.
        run: name of the run.
        sweep: name of the sweep.
        compute_on_gpus: whether stages will compute on the GPUs they hold.

    Raises:
        InputError: the settings name a place without data, or a component that a node cannot read.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    names = Counter(node["NodeManagerHostname"] for node in nodes)
    meters = {}
    for node in nodes:
        host = node["NodeManagerHostname"]
        name = host if names[host] == 1 else f"{host}-{node['NodeManagerAddress']}"
        post = Post(name, run, sweep, store.ledger(run, name) if store else None, compute_on_gpus)
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor = NodeMeter.options(scheduling_strategy=place).remote(post, settings)  # type: ignore[attr-defined]
        meters[node["NodeID"]] = Meter(actor, post)
    try:
        ray.get([meter.actor.start.remote() for meter in meters.values()])
    except ray.exceptions.RayTaskError as problem:
        raise problem.cause from None
    return meters

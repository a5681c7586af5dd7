"""Calls to several workers or nodes at once, of which one may die."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

DEATH_NOTICE_S: Final = 2.0


def all_or_first_error(calls: list[Any], timeout_s: float | None) -> list[Any]:
    """Results of all calls, or the first error as soon as there is one: others may wait for a lost rank for ever."""
    waiting = list(calls)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=timeout_s)
        if not done:
            raise TimeoutError(f"{len(waiting)} of {len(calls)} workers did not answer in {timeout_s:.0f} s")
        try:
            ray.get(done)
        except ray.exceptions.RayActorError:
            raise
        except Exception:
            _raise_death(waiting)
            raise
    return list(ray.get(calls))


def on_each(
    node_ids: Iterable[str],
    function: Callable[..., Any],
    arguments: Callable[[str], tuple[Any, ...]] = lambda _: (),
    *,
    cpus: float = 0.0,
) -> dict[str, ray.ObjectRef]:
    """Have each of the nodes, by Ray's id, call a function, however busy it is unless the call is to hold CPUs."""
    task = ray.remote(num_cpus=cpus, max_retries=0)(function)
    return {
        node_id: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(
            *arguments(node_id)
        )
        for node_id in node_ids
    }


def answers(calls: Mapping[str, ray.ObjectRef], timeout_s: float) -> dict[str, Any]:
    """What the nodes answer in time, without those that do not or that are gone."""
    done, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s) if calls else ([], [])
    found = {}
    for node_id, call in calls.items():
        if call in done:
            with contextlib.suppress(ray.exceptions.RayError):
                found[node_id] = ray.get(call)
    return found


def _raise_death(calls: list[Any]) -> None:
    """Raise the death of a worker among these, if there is one: others may have noticed it before Ray did.

    They then report a broken connection, which is not what went wrong.
    """
    for call in ray.wait(calls, num_returns=len(calls), timeout=DEATH_NOTICE_S)[0] if calls else []:
        with contextlib.suppress(ray.exceptions.RayTaskError):
            ray.get(call)

"""Calls to several workers at once, of which one may die and leave the others waiting for it."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import ray

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


def _raise_death(calls: list[Any]) -> None:
    """Raise the death of a worker among these, if there is one: others may have noticed it before Ray did.

    They then report a broken connection, which is not what went wrong.
    """
    for call in ray.wait(calls, num_returns=len(calls), timeout=DEATH_NOTICE_S)[0] if calls else []:
        with contextlib.suppress(ray.exceptions.RayTaskError):
            ray.get(call)

"""Measured windows: the same work over and over, until the window is long enough, several times in shuffled order."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from energyaware.energy.base import Meter

Phase = Literal["prefill", "decode"]


def measure(
    phases: Mapping[Phase, Callable[[], None]],
    requests: int,
    meter: Meter,
    *,
    min_window_s: float,
    repeats: int,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> dict[Phase, int]:
    """Measure each phase in `repeats` windows, in an order that the seed shuffles. Every rank must call it.

    Args:
        phases: what to measure; one call is one pass over the batch.
        requests: of the whole gang in one pass.
        meter: opens the windows.
        min_window_s: a window goes on until it is at least so long.
        repeats: windows of each phase.
        seed: of the order; the same on every rank.
        check: called before each window; what it raises ends the measurement.

    Returns:
        Passes of each phase in all of its windows.
    """
    fastest_s = {phase: _warm_up(work) for phase, work in phases.items()}
    order = [(phase, repeat) for phase in phases for repeat in range(1, repeats + 1)]
    random.Random(seed).shuffle(order)  # noqa: S311
    passes: dict[Phase, int] = dict.fromkeys(phases, 0)
    for phase, repeat in order:
        check()
        with meter.window(phase, repeat=repeat) as window:
            done = _fill(phases[phase], fastest_s[phase], min_window_s)
            window.requests = done * requests
        passes[phase] += done
    return passes


def _warm_up(work: Callable[[], None]) -> float:
    """Seconds of a pass on the fastest rank, once kernels and caches are warm."""
    work()
    start = time.perf_counter()
    work()
    _finish()
    fastest_s: float = min(gather(time.perf_counter() - start))
    return fastest_s


def _fill(work: Callable[[], None], pass_s: float, min_window_s: float) -> int:
    """Passes that it took, the same number on every rank."""
    start, done = time.perf_counter(), 0
    elapsed_s = 0.0
    while elapsed_s < min_window_s:
        more = max(1, math.ceil((min_window_s - elapsed_s) / pass_s))
        for _ in range(more):
            work()
        _finish()
        done += more
        elapsed_s = min(gather(time.perf_counter() - start))
        pass_s = elapsed_s / done
    return done


def _finish() -> None:
    """Wait for what the device was given."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def gather(value: Any) -> list[Any]:
    """The value of every rank, on every rank."""
    import torch

    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values

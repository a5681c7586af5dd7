"""The idle power of a node, read before anything starts on it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from energyaware.energy.accounts import PATIENCE_STEPS, fault
from energyaware.energy.base import Channel, GpuState, Reading, Source
from energyaware.rows import Row

QUIET: Final = 0.1
"""Share of the node's CPUs that may be busy while idle power is read."""

SETTLE_S: Final = 5.0
"""How long to wait at most for the node to be quiet."""

POLL_S: Final = 0.005
"""Between two looks at a counter that moves in steps."""

LOOK_S: Final = 10.0
"""Between two looks at counters while idle power is read: some wrap, which nobody sees who looks away for a minute."""

SHARED: Final = "another process was on the GPU while its idle power was read"

CONTEXT_TIMEOUT_S: Final = 120.0

_HOLD_CONTEXTS: Final = """
import sys, torch
held = [torch.zeros(1, device=f"cuda:{index}") for index in range(torch.cuda.device_count())]
torch.cuda.synchronize()
print(len(held), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Baseline:
    """Idle power by channel.

    Attributes:
        power_w: of the channels where it could be read.
        reasons: why a channel has none, or why it is not to be trusted.
        context: whether CUDA contexts were alive on the GPUs: one alone draws about 9 W on an A100.
    """

    power_w: Mapping[Channel, float] = field(default_factory=dict)
    reasons: Mapping[Channel, str] = field(default_factory=dict)
    context: bool = False

    def trusted_w(self, channel: Channel) -> float | None:
        """Idle power of a channel; None where it is unknown or the node was not idle."""
        return None if channel in self.reasons else self.power_w.get(channel)

    @classmethod
    def of_rows(cls, rows: Collection[Row], channels: Collection[Channel]) -> Baseline:
        """As an earlier meter of the same node left it in the nodes table."""
        known = {(row["component"], row["device"], row["source"]): row for row in rows}
        found = {
            c: known[c.component, c.device, c.source] for c in channels if (c.component, c.device, c.source) in known
        }
        return cls(
            {c: row["idle_power_w"] for c, row in found.items() if row["idle_power_w"] is not None},
            {c: row["idle_reason"] for c, row in found.items() if row["idle_reason"] is not None},
            any(row["idle_context"] for row in found.values()),
        )


def read_baseline(
    sources: Sequence[Source],
    busy_s: Callable[[], float],
    idle_s: float,
    uuids_in_use: Collection[str] = (),
    gpu_states: Callable[[Sequence[str]], Mapping[str, GpuState]] = lambda _: {},
) -> Baseline:
    """Idle power over `idle_s` seconds.

    Args:
        sources: what to read.
        busy_s: CPU seconds that the whole machine has used so far.
        idle_s: length; 0 reads nothing.
        uuids_in_use: GPUs that stages will compute on: a CUDA context is held on each meanwhile.
        gpu_states: of GPUs by UUID, as far as they are known: for processes of others on them.
    """
    if idle_s <= 0:
        return Baseline(reasons={c: "idle power was not read (idle_s is 0)" for s in sources for c in s.channels})
    uuids = [c.device for source in sources for c in source.channels if c.device is not None]
    with _contexts(uuids_in_use) as (context, own_pids):
        _wait_for_quiet(busy_s)
        shared = _shared(gpu_states(uuids), own_pids)
        _faults(sources)  # the last look at the counters may be minutes old: contexts take their time
        busy_before_s, since_s = busy_s(), time.monotonic()
        before = {channel: reading for source in sources for channel, reading in _as_it_moves(source).items()}
        faults = _let_pass(idle_s, sources)
        after = {channel: reading for source in sources for channel, reading in _as_it_moves(source).items()}
        busy = (busy_s() - busy_before_s) / (time.monotonic() - since_s) / (os.cpu_count() or 1)
        shared |= _shared(gpu_states(uuids), own_pids)
    power_w, reasons = {}, {}
    for channel, first in before.items():
        last = after.get(channel, Reading(None, "the channel vanished"))
        if reason := fault(first) or faults.get(channel) or fault(last):
            reasons[channel] = reason
            continue
        spent_j, elapsed_s = (last.energy_j or 0.0) - (first.energy_j or 0.0), (last.at_s or 0.0) - (first.at_s or 0.0)
        if spent_j < 0 or elapsed_s <= 0:
            reasons[channel] = "the counter or the clock went backwards while idle power was read"
            continue
        power_w[channel] = spent_j / elapsed_s
        if busy > QUIET and channel.component != "gpu":
            reasons[channel] = f"the node was {busy:.0%} busy while its idle power was read"
        if channel.device in shared:
            reasons[channel] = SHARED
    return Baseline(power_w, reasons, context)


def _wait_for_quiet(busy_s: Callable[[], float]) -> None:
    """Give what was just started time to calm down."""
    deadline_s = time.monotonic() + SETTLE_S
    cpus, step_s = os.cpu_count() or 1, 0.5
    while time.monotonic() < deadline_s:
        before = busy_s()
        time.sleep(step_s)
        if (busy_s() - before) / step_s / cpus < QUIET:
            return


def _let_pass(idle_s: float, sources: Sequence[Source]) -> dict[Channel, str]:
    """Wait, with a look at the counters now and then. Returns why channels could not be read meanwhile."""
    end_s, faults = time.monotonic() + idle_s, dict[Channel, str]()
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(LOOK_S, left_s))
        if left_s > LOOK_S:
            faults = _faults(sources) | faults
    return faults


def _faults(sources: Sequence[Source]) -> dict[Channel, str]:
    """Read all, and tell of the channels that could not be read why."""
    found = {channel: fault(reading) for source in sources for channel, reading in source.read().items()}
    return {channel: reason for channel, reason in found.items() if reason}


def _shared(states: Mapping[str, GpuState], own_pids: Collection[int]) -> set[str]:
    """GPUs on which the driver tells of processes that are not ours."""
    return {uuid for uuid, state in states.items() if set(state.pids or ()) - set(own_pids)}


def _as_it_moves(source: Source) -> dict[Channel, Reading]:
    """Readings with their time, each of a stepped counter at the moment when it moves."""
    seen = _timed(source, None)
    moving = {channel for channel in seen if source.step_s(channel) and not fault(seen[channel])}
    deadline_s = time.monotonic() + PATIENCE_STEPS * max((source.step_s(channel) for channel in moving), default=0.0)
    while moving and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        for channel, reading in _timed(source, moving).items():
            if reading.energy_j != seen[channel].energy_j:
                moving.discard(channel)
            seen[channel] = reading
    return seen


def _timed(source: Source, channels: Collection[Channel] | None) -> dict[Channel, Reading]:
    now_s = time.monotonic()
    return {
        channel: reading if reading.at_s is not None else Reading(reading.energy_j, reading.reason, now_s)
        for channel, reading in source.read(channels).items()
    }


@contextmanager
def _contexts(uuids: Collection[str]) -> Iterator[tuple[bool, tuple[int, ...]]]:
    """A process that holds a CUDA context on each of these GPUs; says whether it does, and its id."""
    if not uuids:
        yield False, ()
        return
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(uuids)}
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", _HOLD_CONTEXTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as holder:
        try:
            held = _first_line(holder)
            yield held == str(len(uuids)), (holder.pid,)
        finally:
            holder.kill()


def _first_line(process: subprocess.Popen[str]) -> str:
    """What the process says first; nothing if it ends or takes too long."""
    import selectors

    assert process.stdout is not None  # noqa: S101
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline().strip() if selector.select(CONTEXT_TIMEOUT_S) else ""

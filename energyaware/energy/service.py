"""The meter of one node at work: reads its sources at both ends of windows and at a heartbeat, and saves the ledger.

Two threads stand beside the callers. One watches the counters: it looks for the movement that settles a change of
hands, reads what takes long to read, and ticks. The other writes the ledger to the results folder at each heartbeat,
so that whatever dies loses one heartbeat of joules at most.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from energyaware.energy.base import GpuState, MeterSettings, WindowName
from energyaware.energy.baseline import Baseline, read_baseline
from energyaware.energy.carbon import factors
from energyaware.energy.holder import Key
from energyaware.energy.ledger import Ledger
from energyaware.energy.ledger_file import LedgerPlace, set_aside, write_ledger
from energyaware.energy.process_tree import ProcessTimes
from energyaware.energy.sources import NodeSources, count_gpus, find_sources
from energyaware.energy.window import CHECKPOINT, Window
from energyaware.errors import InputError, StorageError
from energyaware.rows import Row

POLL_S: Final = 0.01
"""Between two looks at a counter that is to move: what the time of its movement is known to."""

SETTLE_TIMEOUT_S: Final = 2.0
"""A counter that has not moved by then is taken to stand still; its track decides so earlier."""


@dataclass(frozen=True)
class Post:
    """Where a meter stands.

    Attributes:
        node: name of the machine, as it stands in the rows.
        run: name of the run of the sweep.
        sweep: name of the sweep.
        ledger: where the ledger is written; None where it is not kept.
        compute_on_gpus: whether stages compute on the GPUs they hold: idle power is then read with CUDA contexts.
        idle_rows: rows of the nodes table in which an earlier run told the node's idle power; where they tell all of
            it, it is not read again.
    """

    node: str
    run: str
    sweep: str
    ledger: LedgerPlace | None
    compute_on_gpus: bool = False
    idle_rows: tuple[Row, ...] = ()


class NodeService:
    """Meters one node. Its methods may be called from any thread.

    Raises:
        InputError: the settings name a place without data, or a component that nothing on this node reads.
    """

    def __init__(self, post: Post, settings: MeterSettings) -> None:
        self._post, self._settings = post, settings
        self._factors = factors(settings)
        self._sources = find_sources(settings)
        _refuse_missing(self._sources, post.node)
        self._times = ProcessTimes()
        baseline = self._baseline()
        self._lock, self._settling, self._saving = threading.Lock(), threading.Lock(), threading.Lock()
        self._reading = threading.Lock()
        self._ledger = Ledger(
            {"run": post.run, "node": post.node},
            self._sources.sources,
            self._times,
            os.cpu_count() or 1,
            baseline,
            self._factors,
            self._why_not,
            time.monotonic(),
            None if "gpu" in settings.components else count_gpus(),
        )
        self._wake, self._stop = threading.Event(), threading.Event()
        self._trouble: str | None = None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._watch, self._save)]
        for thread in self._threads:
            thread.start()

    # -- what stages ask -------------------------------------------------------------------------------------------

    def begin(self, about: Row, pids: Sequence[int], gpus: Sequence[str], cores: float) -> None:
        """An attempt starts here; `gpus` are Ray's ids: NVML indices, UUIDs or their beginnings, MIG names."""
        self._times.refresh()
        nvml = self._sources.gpus
        uuids = [nvml.uuid_of(gpu) if nvml else gpu for gpu in gpus]
        with self._lock:
            self._ledger.begin(about, pids, uuids, cores, time.monotonic())
        self._wake.set()

    def open(
        self, key: Key, name: WindowName, epoch: int | None, repeat: int | None, from_step: int | None = None
    ) -> int:
        """Open a window of an attempt. Returns its token.

        Before that of a checkpoint all joules up to it are saved: an attempt that goes on from it goes on with them.
        """
        with self._lock:
            token = self._ledger.open(key, Window(name, *key, epoch, repeat, from_step), time.monotonic())
            self._ledger.see(self._states(self._ledger.held(key)))
        self._wake.set()
        if name == CHECKPOINT:
            self._settle()
            self._save_once()
        return token

    def close(self, token: int, requests: int | None) -> None:
        """Close a window in which so many requests were handled."""
        with self._lock:
            now_s = time.monotonic()
            key = self._ledger.key_of(token)
            self._ledger.see(self._states(self._ledger.held(key) if key else []))
            self._ledger.close(token, requests, now_s)
        self._wake.set()

    def end(self, key: Key, *, kept: bool) -> list[Row]:
        """An attempt ends here. Returns the rows of its windows, which stay in the ledger until `forget`."""
        with self._lock:
            self._ledger.end(key, time.monotonic())
        self._settle()
        with self._lock:
            return self._ledger.rows(key, kept=kept)

    def forget(self, key: Key) -> None:
        """The rows of an attempt that ended are safe in the results."""
        with self._lock:
            self._ledger.forget(key)

    def now(self) -> dict[str, Any]:
        """As the ledger's, which node it is, and what is wrong with writing it, if anything."""
        with self._lock:
            return self._ledger.now() | {"node": self._post.node, "trouble": self._trouble}

    def finish(self) -> Row:
        """Stop metering. Returns the last state of the ledger, as its file has it."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()
        with self._lock:
            self._ledger.tick(time.monotonic())
        self._settle()
        last = self._content()
        for source in self._sources.sources:
            source.close()
        return last

    # -- threads ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        heartbeat_s = self._settings.heartbeat_s
        tick_s = time.monotonic() + heartbeat_s
        while not self._stop.is_set():
            woken = self._wake.wait(max(0.0, tick_s - time.monotonic()))
            self._wake.clear()
            if woken and not self._stop.is_set():
                self._settle()
            if time.monotonic() >= tick_s:
                self._tick()
                tick_s = time.monotonic() + heartbeat_s

    def _tick(self) -> None:
        self._times.refresh()
        with self._lock:
            held = self._ledger.held()
        states = self._states(held)
        self._read_slow()
        with self._lock:
            self._ledger.see(states)
            self._ledger.tick(time.monotonic())

    def _settle(self) -> None:
        """Wait until all joules up to now have an owner."""
        with self._settling:
            self._read_slow()
            deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
            while time.monotonic() < deadline_s:
                with self._lock:
                    pending = self._ledger.poll(time.monotonic())
                if not pending:
                    return
                time.sleep(POLL_S)

    def _read_slow(self) -> None:
        """By one thread at a time: the ledger takes readings in the order in which they were made."""
        with self._reading:
            readings = {c: r for source in self._sources.sources if not source.prompt for c, r in source.read().items()}
            with self._lock:
                self._ledger.slow_readings(readings, time.monotonic())

    def _save(self) -> None:
        while not self._stop.wait(self._settings.heartbeat_s):
            self._save_once()

    def _save_once(self) -> None:
        if self._post.ledger is None:
            return
        with self._saving:
            try:
                write_ledger(self._post.ledger, self._content())
                self._trouble = None
            except StorageError as problem:  # it may come back; until then joules are only in this process
                self._trouble = f"the ledger of {self._post.node} cannot be written: {problem}"

    def _content(self) -> Row:
        with self._lock:
            rows = self._ledger.snapshot()
        return {
            "run": self._post.run,
            "sweep": self._post.sweep,
            "node": self._post.node,
            "written_at": datetime.now(UTC),
            "heartbeat_s": self._settings.heartbeat_s,
            **rows,
        }

    # -- what the node has -----------------------------------------------------------------------------------------

    def _baseline(self) -> Baseline:
        channels = [channel for source in self._sources.sources for channel in source.channels]
        if self._post.ledger is not None and (before := set_aside(self._post.ledger)) is not None:
            return Baseline.of_rows(before["nodes"], channels)  # the node is at work: it is not idle now
        in_use = [c.device for c in channels if c.device is not None and self._post.compute_on_gpus]
        earlier = Baseline.of_rows(self._post.idle_rows, channels)
        if channels and all(earlier.trusted_w(c) is not None for c in channels) and earlier.context >= bool(in_use):
            return earlier
        return read_baseline(
            self._sources.sources,
            self._times.machine_busy_s,
            self._settings.idle_s,
            uuids_in_use=in_use,
            gpu_states=self._states,
        )

    def _states(self, uuids: Sequence[str]) -> Mapping[str, GpuState]:
        nvml = self._sources.gpus
        return {uuid: nvml.state(uuid) for uuid in uuids} if nvml else {}

    def _why_not(self, name: str) -> str:
        nvml = self._sources.gpus
        return nvml.reason_for(name) if nvml else "no NVIDIA driver on this node"


def _refuse_missing(sources: NodeSources, node: str) -> None:
    for line in sources.missing:
        raise InputError(
            "",
            "energy.components",
            f"{line.component} cannot be read on {node}: {line.reason}; see energyaware meters, or leave it out",
        )

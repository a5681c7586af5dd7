"""CPU time of process trees and of the machine, cheap enough for every end of a window."""

import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol


@dataclass(frozen=True)
class ProcessState:
    """A process at one moment.

    Attributes:
        parent: its parent's id.
        started: what tells it from a later process with the same id; compared, never computed with.
        own_s: CPU time of its threads, user and system.
        children_s: the same of its children that have ended and been waited for, and of theirs.
    """

    parent: int
    started: float
    own_s: float
    children_s: float

    @property
    def total_s(self) -> float:
        """CPU time of the process and of its ended children."""
        return self.own_s + self.children_s

    def is_same(self, other: "ProcessState") -> bool:
        """Whether two states under one id are of one process: ids are used again."""
        return self.started == other.started


class ProcessTable(Protocol):
    """The machine's processes."""

    def pids(self) -> list[int]:
        """All that can be seen."""

    def state(self, pid: int) -> ProcessState | None:
        """One of them; None where there is none."""

    def machine_busy_s(self) -> float:
        """CPU time of the whole machine since it was booted, as `ProcessTimes.machine_busy_s`."""


@dataclass
class _Tree:
    """A followed process and its descendants, as last seen.

    Attributes:
        alive: those that were there.
        ended_s: CPU time, as last seen, of those that are gone and that no living member's `children_s` holds.
        asked: whether anybody has asked for this tree since the last refresh.
    """

    root: int
    alive: dict[int, ProcessState]
    ended_s: float = 0.0
    asked: bool = True

    def total_s(self) -> float:
        return self.ended_s + sum(state.total_s for state in self.alive.values())


class ProcessTimes:
    """CPU time of the process trees that were ever asked for. Its methods may be called from any thread.

    A tree is a process and its descendants, also those whose parents ended meanwhile. Its CPU time never falls: a
    member that is gone counts what was last seen of it, until its parent, having waited for it, counts it. Children
    that were born and ended between two looks count if they were waited for.

    Args:
        table: where processes are seen; default: /proc where there is one, psutil elsewhere.
    """

    def __init__(self, table: ProcessTable | None = None) -> None:
        self._table = table or (ProcTable() if sys.platform == "linux" else PsutilTable())
        self._trees: dict[int, _Tree] = {}
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Find the descendants of all followed processes: to be called at every heartbeat.

        A tree that has ended, and that nobody asked for since the last time, is forgotten.
        """
        states = self._states()  # what takes long, and must not make an end of a window wait
        with self._lock:
            self._trees = {root: tree for root, tree in self._trees.items() if tree.alive or tree.asked}
            for tree in self._trees.values():
                tree.asked = False
            self._adopt(self._trees.values(), states)

    def cpu_time_s(self, pids: Iterable[int]) -> float:
        """Seconds of CPU time, user and system, that the trees under these processes have used so far.

        Reads known members only; a process that is asked for the first time is searched for descendants. A process
        inside another's tree counts once.
        """
        asked = sorted(set(pids))
        with self._lock:
            for tree in [self._trees[pid] for pid in asked if pid in self._trees]:
                self._look(tree)
            if started := [pid for pid in asked if pid not in self._trees]:
                self._follow(started)
            trees = [self._trees[pid] for pid in asked]
            for tree in trees:
                tree.asked = True
            inner = {pid for tree in trees for pid in tree.alive if pid != tree.root}
            return sum(tree.total_s() for tree in trees if tree.root not in inner)

    def machine_busy_s(self) -> float:
        """CPU seconds that the whole machine was busy, over all CPUs, since it was booted.

        User, nice and system, and interrupts, which are work for the machine's processes though they are on none's
        account. Not idle and waiting for input or output; nor steal, when a hypervisor let other machines run. Guests
        are in user and nice already.
        """
        return self._table.machine_busy_s()

    def _states(self) -> dict[int, ProcessState]:
        return {pid: state for pid in self._table.pids() if (state := self._table.state(pid)) is not None}

    def _follow(self, pids: list[int]) -> None:
        for pid in pids:
            state = self._table.state(pid)
            self._trees[pid] = _Tree(pid, {} if state is None else {pid: state})
        self._adopt([self._trees[pid] for pid in pids], self._states())

    def _adopt(self, trees: Iterable[_Tree], states: dict[int, ProcessState]) -> None:
        """Add to the trees the processes that descend from their members."""
        children = defaultdict(list)
        for pid, state in states.items():
            children[state.parent].append(pid)
        for tree in trees:
            parents = [pid for pid, state in tree.alive.items() if pid in states and state.is_same(states[pid])]
            while parents:
                for pid in children[parents.pop()]:
                    # Looked at again: it may have ended since, and then is on its parent's account already.
                    now = None if pid in tree.alive else self._table.state(pid)
                    if now is not None and now.is_same(states[pid]):
                        tree.alive[pid] = now
                        parents.append(pid)

    def _look(self, tree: _Tree) -> None:
        """Look at the known members of a tree."""
        seen = {pid: self._table.state(pid) for pid in tree.alive}
        self._update(tree, {pid: state for pid, state in seen.items() if state is not None})

    @staticmethod
    def _update(tree: _Tree, states: dict[int, ProcessState]) -> None:
        """Take the members' new states; who is gone is counted by the member that waited for it, or else kept."""
        before = tree.alive
        tree.alive = {pid: states[pid] for pid, old in before.items() if pid in states and old.is_same(states[pid])}
        orphaned_s: dict[int, float] = defaultdict(float)
        for pid in before.keys() - tree.alive.keys():
            heir = before[pid].parent
            while heir in before and heir not in tree.alive:  # a parent that is gone too handed on what it had
                heir = before[heir].parent
            orphaned_s[heir] += before[pid].total_s
        for heir, lost_s in orphaned_s.items():
            inherited_s = tree.alive[heir].children_s - before[heir].children_s if heir in tree.alive else 0.0
            tree.ended_s += max(0.0, lost_s - inherited_s)


class ProcTable:
    """Processes as Linux shows them in /proc (proc_pid_stat(5), proc_stat(5))."""

    def __init__(self) -> None:
        self._tick_s: Final = 1 / os.sysconf("SC_CLK_TCK")

    def pids(self) -> list[int]:
        """Its folders with a number for a name."""
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - five times as fast

    def state(self, pid: int) -> ProcessState | None:
        """From its stat, the numbers behind its name, which may hold spaces and brackets."""
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - twice as fast
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        if not fields:  # of a process that went away while it was read
            return None
        user, system, children_user, children_system = (int(ticks) * self._tick_s for ticks in fields[11:15])
        return ProcessState(int(fields[1]), float(fields[19]), user + system, children_user + children_system)

    def machine_busy_s(self) -> float:
        """The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, …, in ticks."""
        with Path("/proc/stat").open() as file:
            ticks = [int(number) for number in file.readline().split()[1:]]
        return (sum(ticks[:3]) + sum(ticks[5:7])) * self._tick_s


class PsutilTable:
    """Processes as psutil shows them, on systems without /proc; not all of these tell the time of ended children."""

    def pids(self) -> list[int]:
        """Of all users."""
        import psutil

        return psutil.pids()

    def state(self, pid: int) -> ProcessState | None:
        """None also for another user's process where only its owner may look."""
        import psutil

        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                return ProcessState(
                    process.ppid(),
                    process.create_time(),
                    times.user + times.system,
                    times.children_user + times.children_system,
                )
        except psutil.Error:
            return None

    def machine_busy_s(self) -> float:
        """Where the system counts interrupts, with them."""
        import psutil

        times = psutil.cpu_times()
        return sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq"))

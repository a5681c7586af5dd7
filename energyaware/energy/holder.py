"""An attempt on a node: what it holds there, and its windows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from energyaware.energy.window import Window
from energyaware.rows import Row

Key = tuple[str, int]
"""Names an attempt: stage id and number."""


class Times(Protocol):
    """CPU time, as `energyaware.energy.process_tree` knows it."""

    def cpu_time_s(self, pids: Sequence[int]) -> float:
        """Used so far by the process trees under these process ids."""

    def machine_busy_s(self) -> float:
        """Used so far by all processes of the machine."""


@dataclass
class Holder:
    """An attempt that is at work on a node.

    Attributes:
        about: its columns of the attempts table, as far as they are known when it begins.
        pids: its processes' ids.
        gpus: UUIDs of its GPUs, or names of devices that no source reads.
        cores: CPU cores that it holds.
        windows: all of its windows; the first, `other`, takes what lies between the others.
        token: of its open window; 0 while it has none.
        cpu_time_s: used by its processes, as of the last look.
    """

    about: Row
    pids: tuple[int, ...]
    gpus: tuple[str, ...]
    cores: float
    windows: list[Window]
    token: int = 0
    cpu_time_s: float = 0.0

    @property
    def key(self) -> Key:
        """Stage id and attempt."""
        return self.about["stage_id"], self.about["attempt"]

    @property
    def current(self) -> Window:
        """The window that its joules go to now."""
        return self.windows[-1] if self.token else self.windows[0]


@dataclass(frozen=True)
class Share:
    """What an attempt gets of a shared channel: of the idle machine's power, and of what comes on top."""

    holder: Holder
    idle: float
    busy: float


@dataclass
class Shares:
    """How CPU and DRAM are shared by the attempts on a node.

    Args:
        times: CPU time of processes.
        cores: CPU cores of the node.
        gpus: GPUs of the node.
    """

    times: Times
    cores: float
    gpus: int
    _busy_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._busy_s = self.times.machine_busy_s()

    def since_last(self, holders: Sequence[Holder]) -> list[Share]:
        """Shares since the last call.

        Of idle power, each takes its share of the node's GPUs, or of its cores where it holds no GPU. Of what comes on
        top, its share of the machine's busy CPU time; where nobody computed at all, again the former.
        """
        busy_s = self.times.machine_busy_s()
        used = [self._used_s(holder) for holder in holders]
        machine_s = max(busy_s - self._busy_s, sum(used))
        self._busy_s = busy_s
        held = [self._part_of_node(holder) for holder in holders]
        crowd = max(1.0, sum(held))
        return [
            Share(holder, part / crowd, seconds / machine_s if machine_s > 0 else part / crowd)
            for holder, part, seconds in zip(holders, held, used, strict=True)
        ]

    def _used_s(self, holder: Holder) -> float:
        total_s = self.times.cpu_time_s(holder.pids)
        used_s = max(0.0, total_s - holder.cpu_time_s)
        holder.cpu_time_s = total_s
        return used_s

    def _part_of_node(self, holder: Holder) -> float:
        return len(holder.gpus) / self.gpus if holder.gpus and self.gpus else holder.cores / self.cores

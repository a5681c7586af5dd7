"""A source whose joules are functions of a clock that the test turns, and a node whose ledger reads it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from energyaware.energy.base import Channel, Reading
from energyaware.energy.baseline import Baseline
from energyaware.energy.carbon import Factors
from energyaware.energy.ledger import Ledger
from energyaware.energy.window import Window

CPU = Channel("cpu", None, "scripted", measured=True)
DRAM = Channel("dram", None, "scripted model", measured=False)
GPU_A = Channel("gpu", "GPU-a", "scripted counter", measured=True)
GPU_B = Channel("gpu", "GPU-b", "scripted counter", measured=True)
WATTS = {CPU: 10.0, DRAM: 2.0, GPU_A: 100.0, GPU_B: 300.0}
IDLE_W = {CPU: 4.0, DRAM: 2.0, GPU_A: 60.0, GPU_B: 60.0}
CORES = 8

Joules = Callable[[float], float | None]


@dataclass
class Scripted:
    """A source: joules of each channel at a time; None is unreadable. A channel that is taken out has vanished."""

    node: "Node"
    joules: dict[Channel, Joules]
    prompt: bool = True

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(self.joules)

    def read(self, channels: Collection[Channel] | None = None) -> dict[Channel, Reading]:
        values = {c: joules(self.node.now_s) for c, joules in self.joules.items() if channels is None or c in channels}
        return {c: Reading(None, "scripted failure") if v is None else Reading(v) for c, v in values.items()}

    def step_s(self, channel: Channel) -> float:
        return 0.0

    def close(self) -> None: ...


@dataclass
class Node:
    """A node with 10 W of CPU, 2 W of DRAM, and GPUs of 100 W and 300 W; `used` is CPU time by process id."""

    baseline: Baseline = field(default_factory=lambda: Baseline(IDLE_W))
    factors: Factors = field(default_factory=lambda: Factors(None, "", 1.0, None, None))
    now_s: float = 100.0
    used: dict[int, float] = field(default_factory=dict)
    others_s: float = 0.0
    gpus_left_out: int | None = None

    def __post_init__(self) -> None:
        kept = [channel for channel in WATTS if self.gpus_left_out is None or channel.component != "gpu"]
        self.source = Scripted(self, {channel: self.power(WATTS[channel]) for channel in kept})
        common = {"run": "r", "node": "node-1"}
        self.ledger = Ledger(
            *(common, [self.source], self, CORES, self.baseline, self.factors, lambda name: f"{name} is odd"),
            *(self.now_s, self.gpus_left_out),
        )

    @staticmethod
    def power(watts: float) -> Joules:
        return lambda now_s: watts * now_s

    def cpu_time_s(self, pids: Sequence[int]) -> float:
        return sum(self.used.get(pid, 0.0) for pid in pids)

    def machine_busy_s(self) -> float:
        return sum(self.used.values()) + self.others_s

    def begin(self, stage="a", pids=(1,), gpus=(), cores=2.0, attempt=1):
        self.ledger.begin({"stage_id": stage, "attempt": attempt}, pids, gpus, cores, self.now_s)

    def open(self, stage="a", name="train", epoch=1, attempt=1):
        return self.ledger.open((stage, attempt), Window(name, stage, attempt, epoch), self.now_s)

    def close(self, token, requests=None):
        self.ledger.close(token, requests, self.now_s)

    def end(self, stage="a", *, attempt=1, kept=True):
        self.ledger.end((stage, attempt), self.now_s)
        return self.ledger.rows((stage, attempt), kept=kept)

    def window(self, seconds=10.0, stage="later", **held):
        """Rows of one window of an attempt of its own."""
        self.begin(stage, **held)
        token = self.open(stage)
        self.now_s += seconds
        self.close(token)
        return by_channel(self.end(stage), "train")

    def own(self, window):
        return by_channel(self.ledger.snapshot()["energy"], window)


def by_channel(rows, window):
    found = {(row["component"], row["device"]): row for row in rows if row["window"] == window}
    assert len(found) == sum(row["window"] == window for row in rows), "one window, one row a channel"
    return found


def joules(rows):
    return {key: row["energy_j"] for key, row in rows.items()}

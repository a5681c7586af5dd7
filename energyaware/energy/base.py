"""What measures energy, seen from both sides: stage code opens windows, a node's ledger reads sources."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

WindowName = Literal["prune", "calibrate", "train", "evaluate", "prefill", "decode"]

JOULES_PER_KWH: Final = 3.6e6


class Meter(Protocol):
    """What stage code sees: `with meter.window("train", epoch=3): …` on every rank of the gang."""

    def window(self, name: WindowName, epoch: int | None = None) -> AbstractContextManager[None]:
        """Measure what happens inside the block, on all nodes of the gang, between two barriers over its ranks."""


class NullMeter:
    """Measures nothing: the same code path for work whose energy nobody asks for."""

    @contextmanager
    def window(self, name: WindowName, epoch: int | None = None) -> Iterator[None]:
        """Run the block."""
        yield


@dataclass(frozen=True)
class Channel:
    """One stream of joules on a node.

    Attributes:
        component: cpu, dram or gpu.
        device: UUID of a GPU; None where the component is the whole node's.
        source: where the figure comes from, in words.
        measured: True for a hardware counter, False for an estimate by a model.
    """

    component: Literal["cpu", "dram", "gpu"]
    device: str | None
    source: str
    measured: bool


@dataclass(frozen=True)
class Reading:
    """Joules of a channel since its source was started; None, with the reason, where they could not be read."""

    energy_j: float | None
    reason: str | None = None


class Source(Protocol):
    """Reads cumulated joules from hardware or from a model of it."""

    def read(self) -> dict[Channel, Reading]:
        """Joules so far on each channel. Never raises for a channel that cannot be read: it says why."""

    def carbon_g_per_kwh(self) -> float | None:
        """Emission factor of the node's electricity, PUE applied; None where this source knows none."""

    def close(self) -> None:
        """Release what the source holds."""

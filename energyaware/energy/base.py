"""What measures energy, seen from its three sides: stage code, a node's ledger, and the hardware that is read."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Component = Literal["cpu", "dram", "gpu"]

WindowName = Literal["prune", "calibrate", "train", "evaluate", "checkpoint", "prefill", "decode"]
"""What stage code opens windows for. A ledger adds `other`, `idle` and `unattributed`."""

JOULES_PER_KWH: Final = 3.6e6

SHORT_S: Final = 5.0
"""Windows under this length are marked: GPU sensors observe only part of the time, which long windows average out
(arXiv 2312.02741: up to 39 % off, 5 % from 5 s on)."""


@dataclass
class Work:
    """What was done in a window, as its block tells it.

    Attributes:
        requests: requests of the whole gang that the window handled; None where it handles none.
    """

    requests: int | None = None


class Meter(Protocol):
    """What stage code sees: `with meter.window("train", epoch=3): …` on every rank of the gang."""

    def window(
        self,
        name: WindowName,
        epoch: int | None = None,
        repeat: int | None = None,
        from_step: int | None = None,
    ) -> AbstractContextManager[Work]:
        """Measure what happens inside the block, on all nodes of the gang, between two barriers over its ranks.

        Args:
            name: what the block does.
            epoch: of training, from 1.
            repeat: which measurement of the same work, from 1.
            from_step: optimizer steps taken before the block.
        """


class NullMeter:
    """Measures nothing: the same code path for work whose energy nobody asks for."""

    @contextmanager
    def window(
        self,
        name: WindowName,
        epoch: int | None = None,
        repeat: int | None = None,
        from_step: int | None = None,
    ) -> Iterator[Work]:
        """Run the block."""
        yield Work()


@dataclass(frozen=True)
class Channel:
    """One stream of joules on a node.

    Attributes:
        component: cpu, dram or gpu.
        device: UUID of a GPU; None where the component is the whole node's.
        source: where the figure comes from, in words.
        measured: True for hardware, False for an estimate by a model.
    """

    component: Component
    device: str | None
    source: str
    measured: bool


@dataclass(frozen=True)
class Reading:
    """Joules of a channel since some fixed moment; None, with the reason, where they could not be read.

    Attributes:
        energy_j: joules so far.
        reason: why there are none.
        at_s: monotonic clock at the reading, taken together with it; None where the ledger may take its own.
    """

    energy_j: float | None
    reason: str | None = None
    at_s: float | None = None


class Source(Protocol):
    """Reads cumulated joules from hardware or from a model of it."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What it reads; fixed from its start on. No two sources of a node share a component and device."""

    @property
    def prompt(self) -> bool:
        """Whether `read` returns within a millisecond or so: then it is called at the ends of windows too.

        A source that is not prompt is read between them, and its power is taken as constant between two readings.
        """

    def read(self, channels: Collection[Channel] | None = None) -> Mapping[Channel, Reading]:
        """Joules so far on each channel, or on these alone. Never raises for one that cannot be read: it says why."""

    def step_s(self, channel: Channel) -> float:
        """Seconds between two movements of the channel's counter; 0 where it moves all the time."""

    def close(self) -> None:
        """Release what the source holds."""


@dataclass(frozen=True)
class GpuState:
    """A GPU at one moment; None is what could not be read.

    Attributes:
        power_w: drawn now.
        power_limit_w: enforced limit.
        temperature_c: of the die.
        clock_sm_mhz: of the multiprocessors.
        clock_memory_mhz: of the memory.
        throttle_reasons: why clocks are held down, in words; idle and settings of the user are none.
        pids: processes that hold a context on it, as this machine numbers them; None also where the driver's numbers
            are those of another process namespace.
        power_integral_j: integral of its power since the source was started, to hold its counter against.
        power_gaps: how often sampling the power failed so far: between two states with different counts, the difference
            of their integrals is not known.
    """

    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    clock_sm_mhz: float | None = None
    clock_memory_mhz: float | None = None
    throttle_reasons: tuple[str, ...] | None = None
    pids: tuple[int, ...] | None = None
    power_integral_j: float | None = None
    power_gaps: int = 0


@dataclass(frozen=True)
class MeterSettings:
    """How a node is metered.

    Attributes:
        components: what counts; a component left out has no rows and is in no sum.
        country: ISO 3166-1 alpha-3 code, for the emission factor.
        region: of that country.
        carbon_g_per_kwh: emission factor, in place of the country's.
        pue: power usage effectiveness of the data centre: applied to carbon and cost. Joules stay the machines'.
        price_per_kwh: of electricity; None where no cost is wanted.
        currency: of the price.
        idle_s: seconds over which the node's idle power is read before anything starts; 0: not at all.
        heartbeat_s: seconds between two readings, and between two writes of the ledger to the results.
    """

    components: tuple[Component, ...] = ("cpu", "dram", "gpu")
    country: str | None = None
    region: str | None = None
    carbon_g_per_kwh: float | None = None
    pue: float = 1.0
    price_per_kwh: float | None = None
    currency: str | None = None
    idle_s: float = 5.0
    heartbeat_s: float = 2.0

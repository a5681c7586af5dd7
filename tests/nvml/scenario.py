"""Scenarios as objects: the lines that the stand-in reads, and the joules that its GPUs draw in truth.

The formulas are those of power.c, once more; `test_nvml_scenario.py` holds the two against each other.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


class Waveform(Protocol):
    """Power as a function of time, from the waveform's beginning on."""

    def line(self, index: int, at_s: float) -> str:
        """For this GPU, beginning at that time of the scenario."""

    def energy_j(self, after_s: float) -> float:
        """Joules within so many seconds of its beginning."""


@dataclass(frozen=True)
class Constant:
    power_w: float

    def line(self, index: int, at_s: float) -> str:
        return f"power {index} {at_s} {self.power_w}"

    def energy_j(self, after_s: float) -> float:
        return self.power_w * after_s


@dataclass(frozen=True)
class Square:
    """Bursts: `high_w` for the first part `duty` of each period, then `low_w`."""

    period_s: float
    duty: float
    high_w: float
    low_w: float

    def line(self, index: int, at_s: float) -> str:
        return f"square {index} {at_s} {self.period_s} {self.duty} {self.high_w} {self.low_w}"

    def energy_j(self, after_s: float) -> float:
        whole, part = divmod(after_s / self.period_s, 1)
        high = whole * self.duty + min(part, self.duty)
        return self.period_s * (self.high_w * high + self.low_w * (whole + part - high))


@dataclass(frozen=True)
class Sine:
    """Between `low_w` and `high_w`, beginning in the middle, upwards."""

    period_s: float
    high_w: float
    low_w: float

    def line(self, index: int, at_s: float) -> str:
        return f"sine {index} {at_s} {self.period_s} {self.high_w} {self.low_w}"

    def energy_j(self, after_s: float) -> float:
        mean_w, amplitude_w = (self.high_w + self.low_w) / 2, (self.high_w - self.low_w) / 2
        turn = 2 * math.pi / self.period_s
        return mean_w * after_s + amplitude_w / turn * (1 - math.cos(turn * after_s))


@dataclass(frozen=True)
class Ramp:
    """From `low_w` to `high_w` within `period_s`, and `high_w` after that."""

    period_s: float
    low_w: float
    high_w: float

    def line(self, index: int, at_s: float) -> str:
        return f"ramp {index} {at_s} {self.period_s} {self.low_w} {self.high_w}"

    def energy_j(self, after_s: float) -> float:
        rising_s = min(after_s, self.period_s)
        reached_w = self.low_w + (self.high_w - self.low_w) * rising_s / self.period_s
        return rising_s * (self.low_w + reached_w) / 2 + self.high_w * (after_s - rising_s)


@dataclass(frozen=True)
class Gpu:
    """One GPU and what it draws: the first waveform from time 0 on, each later one from its time on."""

    uuid: str
    power: Waveform
    later: tuple[tuple[float, Waveform], ...] = ()

    @property
    def _waveforms(self) -> tuple[tuple[float, Waveform], ...]:
        return (0.0, self.power), *self.later

    def lines(self, index: int) -> list[str]:
        """For the GPU of this index."""
        return [f"gpu {self.uuid} 0", *(waveform.line(index, at_s) for at_s, waveform in self._waveforms)]

    def energy_j(self, from_s: float, until_s: float) -> float:
        """Joules between two times of the scenario, none before time 0."""
        total = 0.0
        for (at_s, waveform), (end_s, _) in pairwise((*self._waveforms, (math.inf, self.power))):
            begin_s, stop_s = max(from_s, at_s), min(until_s, end_s)
            if stop_s > begin_s:
                total += waveform.energy_j(stop_s - at_s) - waveform.energy_j(begin_s - at_s)
        return total


@dataclass(frozen=True)
class Scenario:
    """A machine's GPUs in the order of NVML's indices, and further lines as the stand-in's words have them."""

    gpus: tuple[Gpu, ...]
    further: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What `Simulated.environment` and `Simulated.call` take."""
        return [*(line for index, gpu in enumerate(self.gpus) for line in gpu.lines(index)), *self.further]

    def energy_j(self, index: int, from_s: float, until_s: float, start_s: float) -> float:
        """What a GPU drew in truth between two times of the monotonic clock.

        Args:
            index: NVML's, of the GPU.
            from_s: monotonic clock.
            until_s: monotonic clock.
            start_s: when the scenario's time 0 was: `tests.nvml.clock.start_s` in a process that sees its GPUs,
                `Simulated.start_s` outside.
        """
        return self.gpus[index].energy_j(from_s - start_s, until_s - start_s)

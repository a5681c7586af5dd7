"""Power of GPUs, sampled and integrated: the joules of those without an energy counter, a check on the others'."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from energyaware.energy.base import Reading

SAMPLE_PERIOD_S: Final = 0.1
"""Between two samples: sensors of current GPUs renew their value about as often (arXiv 2312.02741)."""

LONGEST_INTERVAL_S: Final = 1.0
"""Between two samples, for the power in between to count as known: whoever was held up longer missed something."""

OVER_LIMIT: Final = 3.0
"""Power this many times over the board's limit is no peak: drivers return large numbers where they have no value."""

BEYOND_ANY_W: Final = 10_000.0
"""No GPU draws as much; stands in for the limit of a board that does not tell."""

WATTS_PER_MILLIWATT: Final = 1e-3


@dataclass(frozen=True)
class Sample:
    """Power of a GPU and its integral at one moment.

    Attributes:
        at_s: monotonic clock.
        power_w: drawn then; None if unknown.
        energy_j: its integral so far, gaps left out; None while the power is unknown.
        gaps: stretches of unknown power so far, one that lasts counted.
    """

    at_s: float
    power_w: float | None
    energy_j: float | None
    gaps: int


class PowerMeter:
    """Integrates the power of one GPU by the trapezoid rule, from any number of threads.

    Where a sample fails, is implausible, or comes over a second after the one before, there is a gap. The integral
    stands still over it and goes on behind it: a difference of two integrals is one of joules only where no gap lies
    between them, which `Sample.gaps` tells.

    Args:
        read_w: the GPU's power now; raises one of `errors` where it cannot be read.
        ceiling_w: power over this is implausible.
        errors: what `read_w` may raise.
    """

    def __init__(self, read_w: Callable[[], float], ceiling_w: float, errors: type[Exception]) -> None:
        self._read_w, self._ceiling_w, self._errors = read_w, ceiling_w, errors
        self._lock = threading.RLock()
        self._energy_j, self._gaps, self._reason = 0.0, 0, ""
        self._last: tuple[float, float] | None = None
        self._gaps_told = 0
        self.sample()

    def sample(self) -> Sample:
        """Read the power and integrate up to now."""
        with self._lock:
            before_s = time.monotonic()
            power_w = self._power_w()
            at_s = (before_s + time.monotonic()) / 2
            if power_w is None:
                self._gaps += self._last is not None
                self._last = None
            else:
                self._add(at_s, power_w)
            return Sample(at_s, power_w, None if power_w is None else self._energy_j, self._gaps)

    def reading(self) -> Reading:
        """Joules so far, for one reader that takes differences of consecutive readings.

        The first reading after a gap has no joules, also where power is known again by then: so neither the difference
        that spans the gap nor any sum over it is taken for joules. The next reading is sound again.
        """
        with self._lock:
            sample = self.sample()
            told, self._gaps_told = self._gaps_told, sample.gaps
            if sample.energy_j is None or sample.gaps != told:
                return Reading(None, self._reason, sample.at_s)
            return Reading(sample.energy_j, at_s=sample.at_s)

    def _power_w(self) -> float | None:
        try:
            power_w = self._read_w()
        except self._errors as problem:
            self._reason = f"NVML: power: {problem}"
            return None
        if power_w > self._ceiling_w:
            self._reason = f"NVML: implausible power, {power_w:.0f} W"
            return None
        return power_w

    def _add(self, at_s: float, power_w: float) -> None:
        if self._last is not None:
            last_s, last_w = self._last
            if at_s - last_s > LONGEST_INTERVAL_S:
                self._gaps += 1
                self._reason = f"power was not sampled for {at_s - last_s:.1f} s"
            else:
                self._energy_j += (at_s - last_s) * (last_w + power_w) / 2
        self._last = at_s, power_w


class PowerSampler:
    """A thread that has each meter sample ten times a second."""

    def __init__(self, meters: Sequence[PowerMeter]) -> None:
        self._meters, self._stop = meters, threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu power", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while self._meters and not self._stop.wait(SAMPLE_PERIOD_S):
            for meter in self._meters:
                meter.sample()


def power_meter(nvml: Any, handle: Any) -> PowerMeter | None:
    """A meter of this GPU's power; None where the driver has none.

    Of the moment, where the driver tells it: `nvmlDeviceGetPowerUsage`, which every driver has, is the mean of a second
    on Ampere (GA100 excepted) and newer, and so shows the power of half a second ago.
    """

    def instant_w() -> float:
        field = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_POWER_INSTANT])[0]
        if field.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(field.nvmlReturn)
        return float(field.value.uiVal * WATTS_PER_MILLIWATT)

    def usage_w() -> float:
        return float(nvml.nvmlDeviceGetPowerUsage(handle) * WATTS_PER_MILLIWATT)

    for read_w in (instant_w, usage_w):
        try:
            read_w()
        except nvml.NVMLError:
            continue
        return PowerMeter(read_w, _ceiling_w(nvml, handle), nvml.NVMLError)
    return None


def _ceiling_w(nvml: Any, handle: Any) -> float:
    """From the highest limit that the board can be given: the one enforced now may be raised at any time."""
    try:
        _, most_mw = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    except nvml.NVMLError:
        return BEYOND_ANY_W
    return float(OVER_LIMIT * most_mw * WATTS_PER_MILLIWATT)

"""What surrounds a GPU's joules: clocks, limit, temperature, throttling, processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from energyaware.energy.base import GpuState
from energyaware.energy.gpu_power import WATTS_PER_MILLIWATT, PowerMeter

THROTTLE_REASONS: Final = {
    0x004: "sw power cap",
    0x008: "hw slowdown",
    0x010: "sync boost",
    0x020: "sw thermal slowdown",
    0x040: "hw thermal slowdown",
    0x080: "hw power brake",
    0x200: "board limit",
    0x400: "reliability",
}
"""nvmlClocksThrottleReasons, but for GPU idle (0x1), clocks that a user set (0x2) and the display's (0x100)."""


def read_state(nvml: Any, handle: Any, power: PowerMeter | None) -> GpuState:
    """The state of a GPU now."""

    def tell(name: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, name)(handle, *arguments)
        except nvml.NVMLError:
            return None

    sample = None if power is None else power.sample()
    return GpuState(
        power_w=sample.power_w if sample else None,
        power_limit_w=_maybe(lambda mw: mw * WATTS_PER_MILLIWATT, tell("nvmlDeviceGetEnforcedPowerLimit")),
        temperature_c=_maybe(float, tell("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)),
        clock_sm_mhz=_maybe(float, tell("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)),
        clock_memory_mhz=_maybe(float, tell("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM)),
        throttle_reasons=_maybe(_in_words, tell("nvmlDeviceGetCurrentClocksThrottleReasons")),
        pids=_maybe(_pids, tell("nvmlDeviceGetComputeRunningProcesses")),
        power_integral_j=sample.energy_j if sample else None,
        power_gaps=sample.gaps if sample else 0,
    )


def _maybe(convert: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else convert(value)


def _in_words(bits: int) -> tuple[str, ...]:
    return tuple(word for bit, word in THROTTLE_REASONS.items() if bits & bit)


def _pids(processes: list[Any]) -> tuple[int, ...] | None:
    """Process ids as this machine numbers them: inside a container the driver may tell those of the host."""
    pids = tuple(process.pid for process in processes)
    return pids if all(Path("/proc", str(pid)).exists() for pid in pids) else None

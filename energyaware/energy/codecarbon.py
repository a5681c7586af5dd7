"""CPU and DRAM of a node as CodeCarbon estimates them, offline: for what no counter gives."""

import math
import tempfile
import time
from collections.abc import Collection
from typing import Any, Final

from energyaware.energy.base import JOULES_PER_KWH, Channel, Component, Reading
from energyaware.errors import MeterError

STALE_S: Final = 0.05
"""CodeCarbon 3.3 does not measure again within this time of its last measurement."""

ANY_COUNTRY: Final = "USA"
"""CodeCarbon does not start without a country; its emissions are not used."""

NEVER_S: Final = 1e9
"""CodeCarbon's own timer would measure beside us, without a lock, and count the time since the last reading twice."""

MEASURING: Final = ("intel_rapl", "windows_emi", "intel_power_gadget")
"""CodeCarbon's methods for a CPU that read hardware; its others are models."""


STILL_S: Final = 1.0
"""Over less, a processor may seem to rest: its model then says 0 W. No machine rests for so long."""


class CodeCarbonSource:
    """One CodeCarbon tracker for the whole machine, read on demand.

    GPUs are never left to it: which ones it counts depends on CUDA_VISIBLE_DEVICES and its guesses about it. Nor is
    RAPL, of which it adds up the sockets that it can read and leaves out the others without a word. Its table of
    processors is read with pandas: 41 of the 57 MiB that a tracker adds to a Ray actor of 124 MiB.

    Args:
        components: what is wanted of cpu and dram.

    Raises:
        MeterError: CodeCarbon could not start, or estimates nothing for a component.
    """

    prompt: Final = False

    def __init__(self, components: Collection[Component] = ("cpu", "dram")) -> None:
        self._tracker, self._totals = _start()
        self._flushed_at_s = time.monotonic()
        self._flush()
        if self._totals.latest is None:  # its constructor and start() swallow their exceptions
            raise MeterError("CodeCarbon did not start")
        self._channels = tuple(self._channel(name) for name in ("cpu", "dram") if name in components)
        self._last_j = {channel: self._energy_j(channel) for channel in self._channels}
        self._moved_at_s = dict.fromkeys(self._channels, self._flushed_at_s)
        for channel, energy_j in self._last_j.items():
            if not energy_j > 0:
                self.close()
                raise MeterError(f"CodeCarbon estimates nothing for {channel.component} ({channel.source})")

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What was wanted; `source` names the method that CodeCarbon chose."""
        return self._channels

    def read(self, channels: Collection[Channel] | None = None) -> dict[Channel, Reading]:
        """Joules since the start; None where CodeCarbon stopped or what it says cannot be."""
        before = self._totals.latest.timestamp, self._totals.latest.duration
        at_s = self._flush()
        reports = (self._totals.latest.timestamp, self._totals.latest.duration) != before
        return {
            channel: self._read(channel, at_s) if reports else Reading(None, "CodeCarbon stopped reporting", at_s)
            for channel in self._channels
            if channels is None or channel in channels
        }

    def step_s(self, channel: Channel) -> float:
        """Its totals are worked out when they are read."""
        return 0.0

    def close(self) -> None:
        """Stop the tracker."""
        self._tracker.stop()

    def _flush(self) -> float:
        """Have it measure, and return when that was on the monotonic clock."""
        time.sleep(max(0.0, STALE_S - (time.monotonic() - self._flushed_at_s)))
        at_s = time.monotonic()
        self._tracker.flush()
        self._flushed_at_s = time.monotonic()
        return at_s

    def _read(self, channel: Channel, at_s: float) -> Reading:
        before_j, now_j = self._last_j[channel], self._energy_j(channel)
        if not math.isfinite(now_j):
            return Reading(None, "CodeCarbon's total is not a number", at_s)
        self._last_j[channel] = now_j
        if now_j < before_j:
            return Reading(None, "CodeCarbon's total went backwards", at_s)
        if now_j > before_j:
            self._moved_at_s[channel] = at_s
        elif at_s - self._moved_at_s[channel] >= STILL_S:  # what it does when it could not measure
            return Reading(None, "CodeCarbon measured nothing since the last reading", at_s)
        return Reading(now_j, at_s=at_s)

    def _energy_j(self, channel: Channel) -> float:
        total = self._totals.latest
        energy_kwh: float = total.cpu_energy if channel.component == "cpu" else total.ram_energy
        return energy_kwh * JOULES_PER_KWH

    def _channel(self, component: Component) -> Channel:
        """Which method CodeCarbon chose is not in its output; only its hardware list tells."""
        if component == "dram":
            return Channel("dram", None, "codecarbon ram model", measured=False)
        modes = {type(hardware).__name__: getattr(hardware, "_mode", None) for hardware in self._tracker._hardware}
        mode = modes.get("CPU") or "unknown"
        return Channel("cpu", None, f"codecarbon {mode}", measured=mode in MEASURING)


def _start() -> tuple[Any, Any]:
    """A running tracker, and what keeps the totals that it reports at each flush."""
    try:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.external.logger import set_logger_level
        from codecarbon.output_methods.base_output import BaseOutput
    except ImportError as problem:
        raise MeterError(f"CodeCarbon cannot be loaded: {problem}") from None

    class Totals(BaseOutput):  # type: ignore[misc]
        latest: Any = None

        def out(self, total: Any, delta: Any) -> None:
            self.latest = total

        def live_out(self, total: Any, delta: Any) -> None:
            self.latest = total

    totals = Totals()
    set_logger_level("critical")  # its constructor talks before it has read `log_level`
    # Whatever is left out here would be read from ~/.codecarbon.config and the environment.
    tracker = OfflineEmissionsTracker(
        country_iso_code=ANY_COUNTRY,
        country_2letter_iso_code=None,
        region=None,
        cloud_provider=None,
        cloud_region=None,
        project_name="energyaware",
        experiment_name="energyaware",
        metadata=None,
        measure_power_secs=NEVER_S,
        tracking_mode="machine",
        gpu_ids=[],
        force_cpu_power=None,
        force_ram_power=None,
        force_mode_cpu_load=True,
        force_carbon_intensity_g_co2e_kwh=None,
        rapl_include_dram=False,
        rapl_prefer_psys=False,
        pue=1.0,
        wue=0.0,
        electricitymaps_api_token="",  # not None, which makes it look for the token's older name
        emissions_endpoint=None,
        api_call_interval=-1,
        output_methods=[],
        output_handlers=[totals],
        output_dir=tempfile.gettempdir(),
        logging_logger=None,
        logger_preamble="",
        allow_multiple_runs=True,
        log_level="critical",
    )
    tracker.start()
    return tracker, totals

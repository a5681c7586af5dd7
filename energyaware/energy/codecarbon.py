"""CPU and DRAM of a node through CodeCarbon, offline: RAPL where it can be read, CodeCarbon's models elsewhere."""

import time
from typing import Any, Final

from energyaware.energy.base import JOULES_PER_KWH, Channel, Reading
from energyaware.errors import InputError

STALE_S: Final = 0.05
"""CodeCarbon 3.3 does not measure again within this time of its last measurement."""

ANY_COUNTRY: Final = "USA"
"""CodeCarbon does not start without a country; where none is given its emissions are not used."""


class CodeCarbonSource:
    """One CodeCarbon tracker for the whole machine, read on demand.

    GPUs are never left to it: which ones it counts depends on CUDA_VISIBLE_DEVICES and its guesses about it.

    Args:
        country: ISO 3166-1 alpha-3 code, for the emission factor; without one no carbon is known.
        region: of that country, where CodeCarbon has regional data.
        pue: power usage effectiveness, applied to carbon; joules stay those of the machine.

    Raises:
        InputError: CodeCarbon knows no such country, or could not start.
    """

    def __init__(self, country: str | None, region: str | None, pue: float) -> None:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.output_methods.base_output import BaseOutput

        class Totals(BaseOutput):  # type: ignore[misc]
            """Keeps what CodeCarbon reports at each flush."""

            latest: Any = None

            def out(self, total: Any, delta: Any) -> None:
                self.latest = total

            def live_out(self, total: Any, delta: Any) -> None:
                self.latest = total

        self._totals, self._pue, self._has_country = Totals(), pue, country is not None
        # Whatever is left out here would be read from ~/.codecarbon.config and the environment.
        self._tracker = OfflineEmissionsTracker(
            country_iso_code=country or ANY_COUNTRY,
            region=region,
            cloud_provider=None,
            cloud_region=None,
            project_name="energyaware",
            measure_power_secs=15,
            api_call_interval=-1,
            tracking_mode="machine",
            gpu_ids=[],
            pue=1.0,
            output_handlers=[self._totals],
            save_to_file=False,
            save_to_api=False,
            save_to_logger=False,
            allow_multiple_runs=True,
            log_level="critical",
        )
        self._tracker.start()
        self._flushed_at = 0.0
        self._flush()
        if self._totals.latest is None:  # its constructor and start() swallow their exceptions
            raise InputError(
                "energy", "country", f"CodeCarbon did not start with country {country!r}, region {region!r}"
            )
        self._channels = self._find_channels()

    def read(self) -> dict[Channel, Reading]:
        """Joules of CPU and DRAM since the start."""
        before = self._totals.latest.timestamp, self._totals.latest.duration
        self._flush()
        total = self._totals.latest
        if (total.timestamp, total.duration) == before:
            return dict.fromkeys(self._channels.values(), Reading(None, "CodeCarbon stopped reporting"))
        return {
            self._channels["cpu"]: Reading(total.cpu_energy * JOULES_PER_KWH),
            self._channels["dram"]: Reading(total.ram_energy * JOULES_PER_KWH),
        }

    def carbon_g_per_kwh(self) -> float | None:
        """CodeCarbon's factor for the country or region, times PUE."""
        total = self._totals.latest
        return (
            None
            if not (self._has_country and total.energy_consumed)
            else total.emissions * 1000 / total.energy_consumed * self._pue
        )

    def close(self) -> None:
        """Stop the tracker."""
        self._tracker.stop()

    def _flush(self) -> None:
        time.sleep(max(0.0, STALE_S - (time.perf_counter() - self._flushed_at)))
        self._tracker.flush()
        self._flushed_at = time.perf_counter()

    def _find_channels(self) -> dict[str, Channel]:
        """Which method CodeCarbon chose is not in its output; only its hardware list tells."""
        modes = {type(hardware).__name__: getattr(hardware, "_mode", None) for hardware in self._tracker._hardware}
        mode = modes.get("CPU")
        return {
            "cpu": Channel("cpu", None, f"codecarbon {mode or 'unknown'}", measured=mode == "intel_rapl"),
            "dram": Channel("dram", None, "codecarbon ram model", measured=False),
        }

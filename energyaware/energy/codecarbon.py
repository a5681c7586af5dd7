"""CPU and DRAM of a node through CodeCarbon, offline: RAPL where it can be read, CodeCarbon's models elsewhere."""

import tempfile
import time
from typing import Any, Final

from energyaware.energy.base import JOULES_PER_KWH, Channel, Reading
from energyaware.errors import InputError

STALE_S: Final = 0.05
"""CodeCarbon 3.3 does not measure again within this time of its last measurement."""

ANY_COUNTRY: Final = "USA"
"""CodeCarbon does not start without a country; where none is given its emissions are not used."""

NEVER_S: Final = 1e9
"""CodeCarbon's own timer would measure beside us, without a lock, and count the time since the last reading twice."""


class CodeCarbonSource:
    """One CodeCarbon tracker for the whole machine, read on demand.

    GPUs are never left to it: which ones it counts depends on CUDA_VISIBLE_DEVICES and its guesses about it.

    Args:
        country: ISO 3166-1 alpha-3 code, for the emission factor; without one no carbon is known.
        region: of that country, one that CodeCarbon has a factor for.
        pue: power usage effectiveness, applied to carbon; joules stay those of the machine.

    Raises:
        InputError: CodeCarbon knows no such country or region, or could not start.
    """

    def __init__(self, country: str | None, region: str | None, pue: float) -> None:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.external.logger import set_logger_level
        from codecarbon.output_methods.base_output import BaseOutput

        set_logger_level("critical")  # its constructor talks before it has read `log_level`
        _refuse_unknown(country, region)

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
            country_2letter_iso_code=None,
            region=region,
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
            force_mode_cpu_load=False,
            force_carbon_intensity_g_co2e_kwh=None,
            rapl_include_dram=False,
            rapl_prefer_psys=False,
            pue=1.0,
            wue=0.0,
            electricitymaps_api_token="",  # not None, which makes it look for the token's older name
            emissions_endpoint=None,
            api_call_interval=-1,
            output_methods=[],
            output_handlers=[self._totals],
            output_dir=tempfile.gettempdir(),
            logging_logger=None,
            logger_preamble="",
            allow_multiple_runs=True,
            log_level="critical",
        )
        self._tracker.start()
        self._flushed_at = 0.0
        self._flush()
        if self._totals.latest is None:  # its constructor and start() swallow their exceptions
            raise InputError("", "energy", f"CodeCarbon did not start with country {country!r}, region {region!r}")
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


def _refuse_unknown(country: str | None, region: str | None) -> None:
    """Refuse what CodeCarbon silently replaces: an unknown country by the world, an unknown region by its country."""
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    if country is None:
        if region is not None:
            raise InputError("", "energy.region", f"{region!r} needs energy.country beside it")
        return
    data = DataSource()
    if country not in data.get_global_energy_mix_data():
        raise InputError(
            "", "energy.country", f"CodeCarbon has no data for {country!r}; allowed: ISO 3166-1 alpha-3, such as DEU"
        )
    factors = [
        Emissions(data).get_private_infra_emissions(Energy.from_energy(kWh=1), GeoMetadata(country, region=place))
        for place in (None, region)
    ]
    if region is not None and factors[0] == factors[1]:
        raise InputError(
            "", "energy.region", f"CodeCarbon has no data for {region!r} of {country}; left out, the country's is taken"
        )

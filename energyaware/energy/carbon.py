"""From joules to g CO2e and to money: the one place for factors."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from energyaware.energy.base import JOULES_PER_KWH, MeterSettings
from energyaware.errors import InputError


@dataclass(frozen=True)
class Factors:
    """What a joule emits and costs.

    Attributes:
        carbon_g_per_kwh: g CO2e per kWh of the machines, PUE applied; None where none was given or asked for.
        carbon_source: where it comes from; None without it.
        pue: power usage effectiveness applied to carbon and cost.
        price_per_kwh: of electricity, PUE not applied; None where none was given.
        currency: of the price.
    """

    carbon_g_per_kwh: float | None = None
    carbon_source: str | None = None
    pue: float = 1.0
    price_per_kwh: float | None = None
    currency: str | None = None

    def carbon_g(self, energy_j: float | None) -> float | None:
        """G CO2e of joules of the machines, PUE applied; None if either is unknown."""
        if energy_j is None or self.carbon_g_per_kwh is None:
            return None
        return energy_j / JOULES_PER_KWH * self.carbon_g_per_kwh

    def cost(self, energy_j: float | None) -> float | None:
        """Price of joules of the machines, PUE applied; None if either is unknown."""
        if energy_j is None or self.price_per_kwh is None:
            return None
        return energy_j / JOULES_PER_KWH * self.price_per_kwh * self.pue


def factors(settings: MeterSettings) -> Factors:
    """The factors of a sweep: the emission factor given there, else CodeCarbon's for the country or region.

    CodeCarbon's data for private infrastructure are yearly means of a grid: of countries from Our World in Data
    (https://ourworldindata.org/grapher/carbon-intensity-electricity), of US states from the EPA's eGRID, of Chinese
    provinces from the ministry of ecology and environment, of Nordic bidding zones and Canadian provinces from their
    mixes (https://docs.codecarbon.io/latest/explanation/methodology/). No connection is opened.

    Raises:
        InputError: CodeCarbon has no data for the country or the region.
    """
    carbon_g_per_kwh, source = settings.carbon_g_per_kwh, "given in the sweep file"
    if carbon_g_per_kwh is None:
        carbon_g_per_kwh, source = _of_place(settings.country, settings.region)
    return Factors(
        carbon_g_per_kwh=None if carbon_g_per_kwh is None else carbon_g_per_kwh * settings.pue,
        carbon_source=None if carbon_g_per_kwh is None else source,
        pue=settings.pue,
        price_per_kwh=settings.price_per_kwh,
        currency=settings.currency,
    )


def _of_place(country: str | None, region: str | None) -> tuple[float | None, str]:
    """Factor and source; refuses what CodeCarbon silently replaces: a country by the world, a region by its country."""
    if country is None:
        if region is not None:
            raise InputError("", "energy.region", f"{region!r} needs energy.country beside it")
        return None, ""
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.external.logger import set_logger_level

    set_logger_level("critical")  # it says of each region that it lacks what `energy.region` says better
    data = _country_data()
    if country not in data.get_global_energy_mix_data():
        raise InputError(
            "", "energy.country", f"CodeCarbon has no data for {country!r}; allowed: ISO 3166-1 alpha-3, such as DEU"
        )
    emissions = Emissions(data)
    countrys, regions = (
        1000 * emissions.get_private_infra_emissions(Energy.from_energy(kWh=1), GeoMetadata(country, region=place))
        for place in (None, region)
    )
    if region is not None and countrys == regions:
        raise InputError(
            "", "energy.region", f"CodeCarbon has no data for {region!r} of {country}; left out, the country's is taken"
        )
    place = country if region is None else f"{country}, {region}"
    return regions, f"codecarbon {version('codecarbon')}, private infrastructure: {place}"


def _country_data() -> Any:
    """CodeCarbon's data, with the countries' read without pandas, which takes half a second and 40 MiB or more."""
    from codecarbon.input import DataSource

    class Countries(DataSource):  # type: ignore[misc]
        def get_global_energy_mix_data(self) -> dict[str, Any]:
            mixes: dict[str, Any] = json.loads(Path(self.global_energy_mix_data_path).read_text())
            return mixes

    return Countries()

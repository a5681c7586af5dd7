"""Emission factors and prices; CodeCarbon's data are the real ones."""

import json
import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from energyaware.energy.base import MeterSettings
from energyaware.energy.carbon import Factors, factors
from energyaware.errors import InputError

ROOT = Path(__file__).parents[2]


def place(country=None, region=None, **settings):
    return factors(MeterSettings(country=country, region=region, **settings))


def test_a_kilowatt_hour_emits_and_costs_the_factors_with_pue_on_both():
    found = Factors(600.0, "somewhere", pue=1.5, price_per_kwh=0.3, currency="EUR")
    assert found.carbon_g(3.6e6) == pytest.approx(600)
    assert found.carbon_g(36) == pytest.approx(0.006)
    assert found.cost(3.6e6) == pytest.approx(0.45)


def test_unknown_joules_or_factors_give_nothing_and_not_zero():
    known, unknown = Factors(600.0, "somewhere", price_per_kwh=0.3), Factors()
    assert (known.carbon_g(None), known.cost(None)) == (None, None)
    assert (unknown.carbon_g(1.0), unknown.cost(1.0)) == (None, None)
    assert (known.carbon_g(0.0), known.cost(0.0)) == (0.0, 0.0)


def test_a_country_has_codecarbons_factor_and_names_it():
    found = place("DEU")
    assert found.carbon_g_per_kwh == pytest.approx(380.95)
    assert found.carbon_source == f"codecarbon {version('codecarbon')}, private infrastructure: DEU"
    assert (found.pue, found.price_per_kwh, found.currency) == (1.0, None, None)


@pytest.mark.parametrize(
    ("country", "region"), [("USA", "California"), ("CAN", "quebec"), ("SWE", "SE1"), ("CHN", "sichuan")]
)
def test_a_region_has_its_own_factor(country, region):
    found = place(country, region)
    assert found.carbon_g_per_kwh < 0.8 * place(country).carbon_g_per_kwh
    assert found.carbon_source.endswith(f": {country}, {region}")


def test_what_the_sweep_file_gives_comes_before_a_country():
    found = place("DEU", carbon_g_per_kwh=50.0, pue=1.2, price_per_kwh=0.25, currency="EUR")
    assert found.carbon_g_per_kwh == pytest.approx(60)
    assert found.carbon_source == "given in the sweep file"
    assert (found.pue, found.price_per_kwh, found.currency) == (1.2, 0.25, "EUR")
    assert place(carbon_g_per_kwh=0.0).carbon_g(3.6e6) == 0.0, "a factor of 0 is a factor"


def test_pue_is_applied_to_a_countrys_factor():
    assert place("DEU", pue=1.5).carbon_g_per_kwh == pytest.approx(1.5 * place("DEU").carbon_g_per_kwh)


def test_without_a_country_there_is_no_factor():
    assert place() == Factors()


@pytest.mark.parametrize(
    ("country", "region", "named"),
    [
        ("XXX", None, "energy.country"),  # CodeCarbon would take the world's average
        ("ATA", None, "energy.country"),
        ("USA", "atlantis", "energy.region"),  # and here the country's
        ("DEU", "bavaria", "energy.region"),
        (None, "california", "energy.region"),
    ],
)
def test_a_place_that_codecarbon_does_not_know_is_refused_by_name(country, region, named):
    with pytest.raises(InputError, match=f"^{named}: .*{region or country}") as refused:
        place(country, region)
    assert refused.value.field == named
    assert "\n" not in str(refused.value)


def ask_watched():
    """Factors of a country and a region, noting connections and what was loaded."""
    noted = []
    sys.addaudithook(lambda event, _: noted.append(event) if event.startswith("socket.") else None)
    found = [place("DEU").carbon_g_per_kwh, place("USA", "texas").carbon_g_per_kwh]
    heavy = sorted(sys.modules.keys() & {"pandas", "pyarrow", "torch", "ray"})
    connections = [event for event in noted if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}]
    print(json.dumps([found, heavy, connections]))
    with socket.socket() as probe:
        probe.connect_ex(("127.0.0.1", 9))
    assert "socket.connect" in noted, "the watch is asleep"


def test_a_factor_is_found_without_a_connection_without_pandas_and_without_a_word(tmp_path):
    wild = {"CODECARBON_ELECTRICITYMAPS_API_TOKEN": "token", "CODECARBON_FORCE_CARBON_INTENSITY_G_CO2E_KWH": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from tests.energyaware import test_carbon as t; t.ask_watched()"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | wild,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (german, texan), heavy, connections = json.loads(done.stdout)
    assert german == pytest.approx(380.95)
    assert texan == pytest.approx(place("USA", "texas").carbon_g_per_kwh)
    assert heavy == []
    assert connections == []
    assert done.stderr == ""

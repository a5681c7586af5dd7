"""CPU and DRAM through the real CodeCarbon, offline, on whatever machine this is."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from energyaware.energy.base import JOULES_PER_KWH, Channel
from energyaware.energy.codecarbon import CodeCarbonSource
from energyaware.errors import InputError

ROOT = Path(__file__).parents[2]
RAPL = any(os.access(path, os.R_OK) for path in Path("/sys/class/powercap").glob("intel-rapl*/energy_uj"))


@pytest.fixture(scope="module")
def germany():
    source = CodeCarbonSource("DEU", None, pue=1.0)
    yield source
    source.close()


def joules(source):
    return {channel.component: reading.energy_j for channel, reading in source.read().items()}


def factor(country, region=None, pue=1.0):
    source = CodeCarbonSource(country, region, pue)
    source.read()
    try:
        return source.carbon_g_per_kwh()
    finally:
        source.close()


def test_joules_grow_with_time(germany):
    """By how much depends on the load, and so on whatever else runs here."""
    start, readings = time.monotonic(), [joules(germany)]
    for _ in range(3):
        time.sleep(0.3)
        readings.append(joules(germany))
    most_j = 5000 * (time.monotonic() - start)

    for component in ("cpu", "dram"):
        series = [reading[component] for reading in readings]
        assert series == sorted(set(series))
        assert series[-1] - series[0] < most_j, "no machine draws five kilowatts here"


def test_readings_close_to_each_other_are_readings_all_the_same(germany):
    """CodeCarbon itself measures at most once in 50 ms: what is asked in between must not look like a standstill."""
    seen = [germany.read() for _ in range(3)]
    assert all(reading.reason is None for readings in seen for reading in readings.values())
    totals = [sum(reading.energy_j for reading in readings.values()) for readings in seen]
    assert totals[0] < totals[1] < totals[2]


def test_the_source_is_named_and_what_is_estimated_says_so(germany):
    cpu, dram = sorted(germany.read(), key=lambda channel: channel.component)

    assert dram == Channel("dram", None, "codecarbon ram model", measured=False)
    assert (cpu.component, cpu.device) == ("cpu", None)
    if not RAPL:
        assert cpu.source in {"codecarbon cpu_load", "codecarbon constant"}
        assert cpu.measured is False
    else:
        assert cpu == Channel("cpu", None, "codecarbon intel_rapl", measured=True)


def test_carbon_needs_a_country(germany):
    germany.read()
    assert 200 < germany.carbon_g_per_kwh() < 600
    assert factor(None) is None


def test_pue_counts_for_carbon_and_not_for_joules(germany):
    """One place with and without PUE, side by side over the same time: on a busy machine nothing else compares."""
    hall = CodeCarbonSource("DEU", None, pue=1.5)
    before = joules(germany)["dram"], joules(hall)["dram"]
    time.sleep(1.0)
    after = joules(germany)["dram"], joules(hall)["dram"]
    hall.close()

    assert hall.carbon_g_per_kwh() == pytest.approx(1.5 * germany.carbon_g_per_kwh())
    # Memory is a constant power in CodeCarbon, so that its joules are time alone.
    assert after[1] - before[1] == pytest.approx(after[0] - before[0], rel=0.2)


def test_a_region_has_its_own_factor():
    assert factor("USA", "California") < 0.8 * factor("USA")


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
        CodeCarbonSource(country, region, pue=1.0)
    assert refused.value.field == named
    assert "\n" not in str(refused.value)


def measure_watched():
    """Use the source, noting every connection, name look-up and file opened for writing."""
    noted = []

    def watch(event, arguments):
        if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
            noted.append([event, repr(arguments[1:])])
        elif event == "open" and set(arguments[1] or "") & set("wax+") and isinstance(arguments[0], str):  # else a pipe
            noted.append([event, arguments[0]])

    sys.addaudithook(watch)
    source = CodeCarbonSource("DEU", None, pue=1.0)
    first = source.read()
    time.sleep(1.2)  # CodeCarbon's own thread wakes once a second
    second = source.read()
    factor_g = source.carbon_g_per_kwh()
    source.close()
    cpu = next(channel for channel in first if channel.component == "cpu")
    watts = (second[cpu].energy_j - first[cpu].energy_j) / 1.2
    print(json.dumps({"noted": noted, "factor": factor_g, "watts": watts, "files": sorted(map(str, Path().iterdir()))}))

    noted.clear()
    with Path("control").open("w"), socket.socket() as probe:
        probe.connect_ex(("127.0.0.1", 9))
    assert [event for event, _ in noted] == ["open", "socket.connect"], "the watch is asleep"


def run_watched(folder, **variables):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            "from tests.energyaware import test_codecarbon as t; t.measure_watched()",
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_no_connection_is_opened_and_no_file_is_written(tmp_path):
    seen, said = run_watched(tmp_path)
    assert seen["noted"] == []
    assert seen["files"] == []
    assert said == "", "nothing is printed either"


def test_configuration_of_codecarbon_lying_about_changes_nothing(tmp_path, germany):
    """Its files and variables belong to other uses of it; ours would silently measure something else."""
    wild = {
        "force_carbon_intensity_g_co2e_kwh": "1",
        "force_cpu_power": "100000",
        "electricitymaps_api_token": "token",
        "co2_signal_api_token": "token",
        "emissions_endpoint": "http://192.0.2.1:9",
        "save_to_api": "true",
        "output_dir": "/nowhere",
        "pue": "3",
    }
    lines = ["[codecarbon]", *[f"{name}={value}" for name, value in wild.items()]]
    (tmp_path / ".codecarbon.config").write_text("\n".join(lines))
    seen, _ = run_watched(tmp_path, **{f"CODECARBON_{name.upper()}": value for name, value in wild.items()})

    germany.read()
    assert seen["noted"] == []
    assert seen["factor"] == pytest.approx(germany.carbon_g_per_kwh())
    assert seen["watts"] < 5000
    assert seen["files"] == [".codecarbon.config"]


def test_a_source_that_was_closed_reads_null_and_not_a_standstill():
    source = CodeCarbonSource(None, None, pue=1.0)
    source.close()
    readings = source.read()

    assert {channel.component for channel in readings} == {"cpu", "dram"}
    assert {(reading.energy_j, reading.reason) for reading in readings.values()} == {
        (None, "CodeCarbon stopped reporting")
    }
    assert JOULES_PER_KWH == 3.6e6

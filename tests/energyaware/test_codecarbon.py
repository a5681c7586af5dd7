"""CPU and DRAM through the real CodeCarbon, offline, on whatever machine this is."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from energyaware.energy.base import Channel
from energyaware.energy.codecarbon import CodeCarbonSource
from energyaware.errors import MeterError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source():
    source = CodeCarbonSource()
    yield source
    source.close()


def joules(source):
    return {channel.component: reading.energy_j for channel, reading in source.read().items()}


def test_joules_grow_with_time(source):
    """By how much depends on the load, and so on whatever else runs here."""
    start, readings = time.monotonic(), [joules(source)]
    for _ in range(3):
        time.sleep(0.3)
        readings.append(joules(source))
    most_j = 5000 * (time.monotonic() - start)

    for component in ("cpu", "dram"):
        series = [reading[component] for reading in readings]
        assert series == sorted(set(series))
        assert series[-1] - series[0] < most_j, "no machine draws five kilowatts here"


def test_readings_close_to_each_other_are_readings_all_the_same(source):
    """CodeCarbon itself measures at most once in 50 ms: what is asked in between must not look like a standstill."""
    seen = [source.read() for _ in range(3)]
    assert all(reading.reason is None for readings in seen for reading in readings.values())
    totals = [sum(reading.energy_j for reading in readings.values()) for readings in seen]
    assert totals[0] < totals[1] < totals[2]


def test_joules_of_memory_are_those_of_the_moment_that_the_reading_names(source):
    """Memory is a constant power in CodeCarbon, so that its joules are time alone."""
    dram = source.channels[1]
    first = source.read([dram])[dram]
    powers_w = []
    for _ in range(2):
        time.sleep(0.4)
        now = source.read([dram])[dram]
        powers_w.append((now.energy_j - first.energy_j) / (now.at_s - first.at_s))
    assert powers_w[0] == pytest.approx(powers_w[1], rel=0.25)


def test_it_says_that_it_takes_its_time(source):
    assert source.prompt is False
    assert source.step_s(source.channels[0]) == 0


def test_the_source_is_named_and_what_is_estimated_says_so(source):
    cpu, dram = source.channels

    assert dram == Channel("dram", None, "codecarbon ram model", measured=False)
    assert cpu == Channel("cpu", None, "codecarbon cpu_load", measured=False)


@pytest.mark.parametrize("component", ["cpu", "dram"])
def test_it_reads_only_what_is_asked_of_it(source, component):
    one = CodeCarbonSource({component})
    assert [channel.component for channel in one.channels] == [component]
    assert list(one.read()) == list(one.channels)
    one.close()
    assert list(source.read(one.channels)) == list(one.channels)


def measure_watched():
    """Use the source, noting every connection, name look-up and file opened for writing."""
    noted = []

    def watch(event, arguments):
        if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
            noted.append([event, repr(arguments[1:])])
        elif event == "open" and set(arguments[1] or "") & set("wax+") and isinstance(arguments[0], str):  # else a pipe
            noted.append([event, arguments[0]])

    sys.addaudithook(watch)
    source = CodeCarbonSource()
    first = source.read()
    time.sleep(1.2)  # CodeCarbon's own thread wakes once a second
    second = source.read()
    source.close()
    cpu = next(channel for channel in first if channel.component == "cpu")
    watts = (second[cpu].energy_j - first[cpu].energy_j) / 1.2
    print(json.dumps({"noted": noted, "watts": watts, "files": sorted(map(str, Path().iterdir()))}))

    noted.clear()
    with Path("control").open("w"), socket.socket() as probe:
        probe.connect_ex(("127.0.0.1", 9))
    assert [event for event, _ in noted] == ["open", "socket.connect"], "the watch is asleep"


def run(folder, function, **variables):
    """The function in a process of its own, in which any warning is an error."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            f"from tests.energyaware import test_codecarbon as t; t.{function}()",
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_no_connection_is_opened_and_no_file_is_written(tmp_path):
    done = run(tmp_path, "measure_watched")
    seen = json.loads(done.stdout)
    assert seen["noted"] == []
    assert seen["files"] == []
    assert done.stderr == "", "nothing is printed either"


def test_configuration_of_codecarbon_lying_about_changes_nothing(tmp_path):
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
    variables = {f"CODECARBON_{name.upper()}": value for name, value in wild.items()}
    seen = json.loads(run(tmp_path, "measure_watched", **variables).stdout)

    assert seen["noted"] == []
    assert seen["watts"] < 5000
    assert seen["files"] == [".codecarbon.config"]


def test_a_source_that_was_closed_reads_null_and_not_a_standstill():
    source = CodeCarbonSource()
    source.close()
    readings = source.read()

    assert {channel.component for channel in readings} == {"cpu", "dram"}
    assert {(reading.energy_j, reading.reason) for reading in readings.values()} == {
        (None, "CodeCarbon stopped reporting")
    }


def start_in_a_broken_place():
    """Without a folder for temporary files CodeCarbon's constructor fails, and hides that."""
    import tempfile

    tempfile.tempdir = "/nowhere"
    try:
        CodeCarbonSource()
    except MeterError as problem:
        print(json.dumps(str(problem)))


def test_a_tracker_that_does_not_start_is_an_error_and_no_source(tmp_path):
    done = run(tmp_path, "start_in_a_broken_place")
    assert json.loads(done.stdout) == "CodeCarbon did not start"

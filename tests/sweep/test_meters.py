"""`energyaware meters` as a user runs it: on this machine, on powercap trees and on the stand-in for NVML."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from energyaware.energy.base import MeterSettings
from sweep.meters import look
from tests.powercap import Powercap, amd, intel

pytest_plugins = "tests.nvml.plugin"

ROOT = Path(__file__).parents[2]
QUICK = ("--seconds", "0.3")


@pytest.fixture
def powercap(tmp_path):
    return Powercap(tmp_path / "powercap")


def meters(*arguments, environment=None, code="from sweep.cli import main; main()"):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "meters", *arguments],
        cwd=ROOT,
        env=(os.environ if environment is None else environment) | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def asked(*arguments, environment):
    done = meters("--format", "json", *QUICK, *arguments, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def by_name(answer):
    return {line["name"]: line for line in answer["components"]}


def test_counters_are_read_as_power_and_called_measured(powercap, gpus):
    intel(powercap)
    environment = gpus.environment("step 0.02", "gpu GPU-aaaa 300", "gpu GPU-bbbb 70") | powercap.environment
    with powercap.drawing({"intel-rapl:0": [(0, 60)], "intel-rapl:1": [(0, 40)], "intel-rapl:0:1": [(0, 8)]}):
        answer = asked("--seconds", "2", environment=environment)

    lines = by_name(answer)
    assert list(lines) == ["processors", "memory", "GPU 0", "GPU 1"]
    assert {line["state"] for line in lines.values()} == {"ok"}
    assert {line["measured"] for line in lines.values()} == {True}
    assert {name: line["source"] for name, line in lines.items()} == {
        "processors": "rapl package",
        "memory": "rapl dram",
        "GPU 0": "nvml energy counter",
        "GPU 1": "nvml energy counter",
    }
    # Its counters are moved by a process that may have to wait for its turn, 100 W by 10 ms a step.
    assert lines["processors"]["power_w"] == pytest.approx(100, rel=0.3)
    assert lines["memory"]["power_w"] == pytest.approx(8, rel=0.3)
    assert lines["GPU 0"]["power_w"] == pytest.approx(300, rel=0.05)
    assert lines["GPU 1"]["power_w"] == pytest.approx(70, rel=0.05)
    assert lines["GPU 1"]["device"] == "GPU-bbbb"
    assert 0.01 < lines["GPU 0"]["step_s"] < 0.05
    assert answer["carbon"] is None


def test_estimates_are_called_estimates_with_reason_and_advice(powercap, gpus, tmp_path):
    amd(powercap).hide("intel-rapl:0")
    environment = gpus.environment() | powercap.environment | {"NVML_SCENARIO": str(tmp_path / "nowhere")}
    lines = by_name(asked(environment=environment))
    assert lines["processors"]["source"] == "codecarbon cpu_load"
    assert lines["memory"]["source"] == "codecarbon ram model"
    for name in ("processors", "memory"):
        assert lines[name]["measured"] is False
        assert lines[name]["power_w"] > 0
    assert lines["processors"]["reason"] == f"RAPL: {powercap.root}/intel-rapl:0/energy_uj: Is a directory"
    assert "no dram zone" in lines["memory"]["reason"]
    assert lines["GPUs"]["measured"] is None
    assert lines["GPUs"]["power_w"] is None


def test_a_gpu_in_mig_mode_has_no_figure_and_says_what_to_do(powercap, gpus):
    environment = gpus.environment("gpu GPU-aaaa 300", "gpu GPU-bbbb 70", "mig 1") | intel(powercap).environment
    mig = by_name(asked(environment=environment))["GPU 1"]
    assert (mig["state"], mig["power_w"], mig["measured"], mig["device"]) == ("unreadable", None, None, "GPU-bbbb")
    assert "MIG is on" in mig["reason"]
    assert "nvidia-smi -mig 0" in mig["advice"]


def test_a_counter_that_fails_meanwhile_is_unreadable_and_not_nothing(powercap, monkeypatch):
    monkeypatch.setenv("ENERGYAWARE_POWERCAP", str(intel(powercap).root))
    threading.Timer(1.0, powercap.hide, ["intel-rapl:1"]).start()
    report = look(MeterSettings(components=("cpu",)), seconds=2.0)
    line = report.lines[0]
    assert (line.name, line.state, line.power_w, line.measured) == ("processors", "unreadable", None, None)
    assert line.reason == f"{powercap.root}/intel-rapl:1/energy_uj: Is a directory"


def test_the_table_fits_100_columns_and_numbers_what_it_explains(powercap, gpus):
    uuids = [f"GPU-4e817856-1fb8-192a-7ab7-0e0e4476c18{n}" for n in range(2)]
    environment = gpus.environment(*(f"gpu {uuid} 350.5" for uuid in uuids), "mig 1") | amd(powercap).environment
    done = meters(*QUICK, "--country", "USA", "--region", "california", environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    table, _, below = done.stdout.partition("\n1. ")
    lines = table.splitlines()
    assert all(len(line.rstrip()) <= 100 for line in lines)
    assert lines[0].split() == ["component", "device", "read", "from", "kind", "power", "step", "note"]
    assert len(lines) == 5
    assert "rapl package" in lines[1]
    assert "measured" in lines[1]
    assert lines[2].split()[-1] == "1"
    assert "estimated" in lines[2]
    assert "GPU 0 GPU-4e817856" in lines[3]
    assert lines[4].split()[-2:] == ["unreadable", "2"]
    assert below.startswith("memory: RAPL: no dram zone in intel-rapl:0")
    assert "\n2. GPU 1: MIG is on" in below
    assert "\ncarbon: 179.1 g CO2e/kWh (codecarbon " in below


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--country", "XX"], "error: --country: CodeCarbon has no data for 'XX'"),
        (["--country", "DEU", "--region", "bavaria"], "error: --region: CodeCarbon has no data for 'bavaria' of DEU"),
        (["--region", "bavaria"], "error: --region: 'bavaria' needs --country beside it"),
        (["--seconds", "0"], "error: Invalid value for '--seconds'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, said):
    done = meters(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("library", ["codecarbon", "psutil", "pynvml"])
def test_without_the_run_extra_it_says_what_to_install(library):
    """A finder that knows no such library stands for an environment without it."""
    code = f"""
import importlib.machinery, sys
class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "{library}" else super().find_spec(name, path, target)
sys.meta_path = [Without if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from sweep.cli import main
main()
"""
    done = meters(code=code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {library} is not installed: pip install 'energyaware[run]'\n"


def test_neither_ray_nor_torch_is_loaded(powercap):
    code = """
import sys
from sweep.cli import app
app(standalone_mode=False)
print(sorted(sys.modules.keys() & {"ray", "torch", "pandas", "pyarrow", "polars"}))
"""
    done = meters(*QUICK, environment=os.environ | intel(powercap).environment, code=code)
    assert done.stdout.splitlines()[-1] == "[]", "with counters for both, CodeCarbon is not even started"


def test_the_help_has_an_example():
    done = meters("--help")
    assert done.returncode == 0
    assert "Example: energyaware meters" in done.stdout

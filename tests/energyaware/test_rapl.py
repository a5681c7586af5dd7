"""CPU and DRAM through powercap trees in a folder."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energyaware.energy.base import Channel
from energyaware.energy.rapl import RaplSource
from tests.powercap import AMD_J, Powercap, amd, drawn_j, intel

CPU = Channel("cpu", None, "rapl package", measured=True)
DRAM = Channel("dram", None, "rapl dram", measured=True)


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def powercap(tmp_path):
    return Powercap(tmp_path)


@pytest.fixture
def clock():
    return Clock()


def joules(source):
    return {channel.component: reading.energy_j for channel, reading in source.read().items()}


def reasons(source):
    return {channel.component: reading.reason for channel, reading in source.read().items()}


def test_packages_and_dram_are_summed_over_sockets_and_their_parts_and_twins_are_not(powercap, clock):
    source = RaplSource(root=intel(powercap).root, clock=clock)
    assert source.channels == (CPU, DRAM)
    assert source.lacking == {}
    assert joules(source) == {"cpu": 0, "dram": 0}

    clock.now_s += 1
    for zone, energy_j in {"0": 100, "1": 20.5, "0:0": 90, "0:1": 7, "1:1": 8, "2": 500}.items():
        powercap.draw(f"intel-rapl:{zone}", energy_j)
    powercap.draw("intel-rapl-mmio:0", 100)
    assert joules(source) == pytest.approx({"cpu": 120.5, "dram": 15})
    assert {reading.at_s for reading in source.read().values()} == {clock.now_s}


def test_it_can_be_read_by_channel_and_is_prompt(powercap):
    source = RaplSource(root=intel(powercap).root)
    assert list(source.read([DRAM])) == [DRAM]
    assert source.prompt is True
    assert source.step_s(CPU) == 0
    assert RaplSource(["dram"], intel(Powercap(powercap.folder / "other")).root).channels == (DRAM,)


@pytest.mark.parametrize("place", ["root", "devices"])
def test_the_environment_names_the_tree_as_class_or_as_devices(powercap, monkeypatch, place):
    monkeypatch.setenv("ENERGYAWARE_POWERCAP", str(getattr(intel(powercap), place)))
    source = RaplSource()
    powercap.draw("intel-rapl:1:1", 3)
    assert joules(source) == pytest.approx({"cpu": 0, "dram": 3})


def test_power_over_time_is_followed_through_a_wrap(powercap):
    """The counter is moved by another process, whose clock bounds what was drawn; it may be late, and never early."""
    waveform = [(0.0, 100.0), (0.5, 200.0)]
    powercap.add("intel-rapl:0", "package-0", range_j=1000, start_j=990, max_power_w=100)
    source = RaplSource(root=powercap.root)
    with powercap.drawing({"intel-rapl:0": waveform}) as start_s:
        energy_j = 0.0
        while energy_j < 100:
            time.sleep(0.05)
            last_j, energy_j = energy_j, joules(source)["cpu"]
            assert last_j <= energy_j <= drawn_j(waveform, time.monotonic() - start_s) + 1e-3
    shown_j = int((powercap.root / "intel-rapl:0" / "energy_uj").read_text()) * 1e-6
    assert joules(source)["cpu"] == pytest.approx(shown_j + 1000 - 990)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(increments_uj=st.lists(st.integers(0, 999_999), max_size=40), start_uj=st.integers(0, 999_999))
def test_increments_below_the_range_are_recovered_exactly_through_any_wraps(tmp_path, increments_uj, start_uj):
    clock = Clock()
    powercap = Powercap(Path(tempfile.mkdtemp(dir=tmp_path)))
    powercap.add("intel-rapl:0", "package-0", range_j=1, start_j=start_uj * 1e-6, max_power_w=0.2)
    source = RaplSource(root=powercap.root, clock=clock)
    for number, increment_uj in enumerate(increments_uj):
        clock.now_s += 1
        powercap.draw("intel-rapl:0", increment_uj * 1e-6)
        assert joules(source)["cpu"] == pytest.approx(sum(increments_uj[: number + 1]) * 1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("shown_uj", "direction"),
    [(0, "backwards"), (200_000_000_000, "forwards by more than the processor can draw")],
)
def test_a_reset_gives_one_null_reading_and_sound_ones_after_it(powercap, clock, shown_uj, direction):
    source = RaplSource(root=intel(powercap).root, clock=clock)
    powercap.draw("intel-rapl:0", 60)
    clock.now_s += 1
    assert joules(source)["cpu"] == pytest.approx(60)

    clock.now_s += 2
    powercap.set("intel-rapl:0", shown_uj)
    reading = source.read()[CPU]
    path = powercap.root / "intel-rapl:0" / "energy_uj"
    assert (reading.energy_j, reading.reason) == (None, f"{path}: the counter went {direction} (reset)")
    assert reasons(source)["dram"] is None

    clock.now_s += 2
    powercap.draw("intel-rapl:0", 10)
    powercap.draw("intel-rapl:1", 5)
    assert joules(source)["cpu"] == pytest.approx(75), "another socket's joules are not lost with it"


def test_a_counter_left_alone_for_longer_than_it_takes_to_wrap_is_not_guessed(powercap, clock):
    source = RaplSource(root=amd(powercap).root, clock=clock)
    clock.now_s += 60
    powercap.draw("intel-rapl:0", 60 * 280)
    assert joules(source)["cpu"] == pytest.approx(60 * 280)

    clock.now_s += 500
    powercap.draw("intel-rapl:0", 500 * 280 % AMD_J)
    assert reasons(source)["cpu"].endswith("energy_uj: not read for 500 s, in which it may have wrapped unseen")
    clock.now_s += 2
    powercap.draw("intel-rapl:0", 2 * 280)
    assert joules(source)["cpu"] == pytest.approx(62 * 280)


@pytest.mark.parametrize("text", ["", "nan", "-5", "12.5", "1e9", "12 13", "inf", "٣", "no counter\n" * 20])
def test_what_is_no_count_gives_null_with_file_and_text(powercap, clock, text):
    source = RaplSource(root=intel(powercap).root, clock=clock)
    powercap.set("intel-rapl:1", text)
    reading = source.read()[CPU]
    assert reading.energy_j is None
    assert str(powercap.root / "intel-rapl:1" / "energy_uj") in reading.reason
    assert "which is no count" in reading.reason
    assert "\n" not in reading.reason
    assert len(reading.reason) < 300

    powercap.set("intel-rapl:1", 11_000_000 + 4_000_000)
    clock.now_s += 1
    assert joules(source)["cpu"] == pytest.approx(4), "what was drawn meanwhile is on the counter, once it reads again"


def test_a_count_above_its_range_is_no_count(powercap, clock):
    """Seen on virtual machines: https://github.com/intel/powertelemetry/issues/3."""
    source = RaplSource(root=intel(powercap).root, clock=clock)
    powercap.set("intel-rapl:0", 60_293_987_000_000)
    assert "above its max_energy_range_uj of 262143328850" in reasons(source)["cpu"]


def test_a_file_that_goes_away_or_cannot_be_read_gives_null_for_the_sum(powercap):
    source = RaplSource(root=intel(powercap).root)
    powercap.hide("intel-rapl:1")
    assert reasons(source)["cpu"] == f"{powercap.root}/intel-rapl:1/energy_uj: Is a directory"
    powercap.mask()
    assert reasons(source) == {
        "cpu": f"{powercap.root}/intel-rapl:0/energy_uj: No such file or directory",
        "dram": f"{powercap.root}/intel-rapl:0/intel-rapl:0:1/energy_uj: No such file or directory",
    }


def test_amd_gives_the_cpu_and_says_why_there_is_no_dram(powercap):
    source = RaplSource(root=amd(powercap, sockets=2).root)
    assert source.channels == (CPU,)
    lack = source.lacking["dram"]
    assert lack.state == "absent"
    assert "no dram zone in intel-rapl:0, intel-rapl:1" in lack.reason
    assert lack.advice is None


def test_dram_of_some_sockets_does_not_pass_for_all(powercap):
    intel(powercap, sockets=1)
    powercap.add("intel-rapl:5", "package-1", start_j=77)
    source = RaplSource(root=powercap.root)
    assert source.channels == (CPU,)
    assert "no dram zone in intel-rapl:5" in source.lacking["dram"].reason


def test_dies_count_each_and_a_counter_that_every_die_shows_counts_once(powercap, clock):
    for zone, start_j in enumerate([100, 700, 5000, 5000]):  # package 1 as first-generation EPYC show it
        powercap.add(f"intel-rapl:{zone}", f"package-{zone // 2}-die-{zone % 2}", AMD_J, start_j)
    source = RaplSource(root=powercap.root, clock=clock)
    clock.now_s += 1
    for zone, energy_j in enumerate([1, 2, 40, 40]):
        powercap.draw(f"intel-rapl:{zone}", energy_j)
    assert joules(source)["cpu"] == pytest.approx(1 + 2 + 40)


def test_sockets_whose_counters_agree_by_chance_count_each(powercap, clock):
    for zone in range(2):
        powercap.add(f"intel-rapl:{zone}", f"package-{zone}", start_j=5000)
    source = RaplSource(root=powercap.root, clock=clock)
    clock.now_s += 1
    for zone in range(2):
        powercap.draw(f"intel-rapl:{zone}", 40)
    assert joules(source)["cpu"] == pytest.approx(80)


@pytest.mark.parametrize("there", [True, False])
def test_a_machine_without_rapl_lacks_it(powercap, there):
    """Virtual machines have the control type and no package, or nothing at all."""
    if there:
        powercap.zone("intel-rapl").mkdir(parents=True)
    source = RaplSource(root=powercap.devices)
    assert source.channels == ()
    assert source.read() == {}
    assert {component: lack.state for component, lack in source.lacking.items()} == {"cpu": "absent", "dram": "absent"}
    assert source.lacking["cpu"].reason.startswith(f"no RAPL package in {powercap.devices}: ")


def test_links_to_masked_devices_are_unreadable_and_not_absent(powercap):
    intel(powercap).mask()
    lack = RaplSource(root=powercap.root).lacking["cpu"]
    assert lack.state == "unreadable"
    assert lack.reason == f"{powercap.root}/intel-rapl:0/name: No such file or directory"
    assert "docker run" in lack.advice


@pytest.mark.parametrize("file", ["energy_uj", "max_energy_range_uj", "name"])
def test_one_unreadable_socket_is_found_at_the_start(powercap, file):
    intel(powercap).hide("intel-rapl:1", file)
    source = RaplSource(root=powercap.root)
    assert source.lacking["cpu"].state == "unreadable"
    assert source.lacking["cpu"].reason == f"{powercap.root}/intel-rapl:1/{file}: Is a directory"


@pytest.fixture
def open_folder():
    """A folder that all users may enter, which pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="powercap-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def lacking_as_nobody():
    if os.getuid() == 0:
        os.setuid(65534)
    source = RaplSource()
    print(
        json.dumps(
            {component: [lack.state, lack.reason, lack.advice] for component, lack in source.lacking.items()}
            | {channel.component: "read" for channel in source.channels}
        )
    )


def test_without_permission_it_says_which_file_and_what_to_do(open_folder):
    powercap = intel(Powercap(open_folder))
    secret = powercap.zone("intel-rapl:0") / "energy_uj"
    secret.chmod(0o400 if os.getuid() == 0 else 0)
    done = subprocess.run(
        [sys.executable, "-c", "from tests.energyaware import test_rapl as t; t.lacking_as_nobody()"],
        cwd=Path(__file__).parents[2],
        env=os.environ | powercap.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["dram"] == "read"
    state, reason, advice = seen["cpu"]
    assert (state, reason) == ("unreadable", f"{powercap.root}/intel-rapl:0/energy_uj: Permission denied")
    for part in ("PLATYPUS", "CVE-2020-8694", "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj", "udev"):
        assert part in advice

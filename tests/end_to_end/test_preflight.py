"""Three hosts with four GPUs each, looked at before anything is run on them: one cluster for all that can be wrong."""

import json
import re
import shutil
import subprocess

import pytest

from energyaware.versions import versions
from tests.end_to_end.command import COMMAND, rows
from tests.hosts import Cluster, Hosts, need_hosts
from tests.own_data import COLUMNS, save_tickets
from tests.powercap import Powercap, intel
from tests.test_architecture import ROOT
from tests.tiny import save_gpt2

pytest_plugins = "tests.nvml.plugin"
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

GPUS = 4
SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{steps: 2, batch_size: 4, sequence_length: 64}}
resources: {{cpus_per_worker: 1, device: cpu}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where the user works: on a drive that all hosts share, but for the folder `private`."""
    home = tmp_path_factory.mktemp("user")
    save_gpt2(home / "my-gpt2")
    save_tickets(home / "tickets.jsonl")
    (home / "mine.yaml").write_text(SWEEP)
    (home / "private").mkdir()
    shutil.copy(home / "tickets.jsonl", home / "private")
    (home / "private.yaml").write_text(SWEEP.replace("tickets.jsonl", "private/tickets.jsonl"))
    return home


@pytest.fixture(scope="module")
def clock_library(tmp_path_factory):
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, ROOT / "tests" / "clock.c"], check=True)
    return library


class Machines:
    """The hosts, and what can go wrong with them while Ray runs: a process reads it when it starts."""

    def __init__(self, hosts, home, nvml, clock):
        self.hosts, self.folder = hosts, hosts.folder
        powercap = intel(Powercap(self.folder / "powercap"))
        for host in hosts:
            self.site(host.index).mkdir()
            host.environment = powercap.environment | {
                "LD_LIBRARY_PATH": str(nvml.parent),
                "NVML_SCENARIO": str(self.folder / f"gpus-{host.index}"),
                "PYTHONPATH": str(self.site(host.index)),
            }
        hosts[1].environment |= {"LD_PRELOAD": str(clock), "CLOCK_AHEAD": str(self.folder / "ahead")}
        (self.folder / "elsewhere").mkdir()
        hosts[2].mounts = {home / "private": self.folder / "elsewhere"}
        self.heal()

    def site(self, index):
        """Where a host's Python looks first."""
        return self.folder / f"site-{index}"

    def gpus(self, index, *further):
        """The GPUs of a host."""
        lines = [f"gpu GPU-{index}{gpu}234567-of-host {100 + gpu}" for gpu in range(GPUS)]
        (self.folder / f"gpus-{index}").write_text("\n".join([*lines, *further, ""]))

    def heal(self):
        """All is well."""
        (self.folder / "ahead").write_text("0")
        for host in self.hosts:
            self.gpus(host.index)
            shutil.rmtree(self.site(host.index))
            self.site(host.index).mkdir()


@pytest.fixture(scope="module")
def cluster(home, nvml_library, clock_library):
    need_hosts()
    with Hosts(3) as hosts:
        machines = Machines(hosts, home, nvml_library, clock_library)
        with Cluster(hosts, cpus=1, RAY_worker_niceness="0") as cluster:
            cluster.machines = machines
            yield cluster


@pytest.fixture
def machines(cluster):
    yield cluster.machines
    cluster.machines.heal()


@pytest.fixture
def check(cluster, home):
    def check(*arguments, code=0):
        asked = ["cluster", "check", *arguments, "--address", cluster.address]
        return cluster.hosts[0].run([COMMAND, *asked], cwd=home, check=code).stdout

    return check


def test_all_is_well_in_one_table(check, home):
    table = check("mine.yaml", "--results", home / "deep" / "shared").splitlines()
    assert table[0].split()[:8] == ["node", "CPUs", "memory", "network", "clock", "python", "code", "meters"]
    own = versions()
    for index in range(3):
        first, *others = table[1 + GPUS * index : 1 + GPUS * (index + 1)]
        gpu = r"GPU-{}{}234567 NVIDIA H200 141\.0 GiB 9\.0 +700 W none *"
        expected = (
            rf"host{index} 1    \d+\.\d GiB eth0 10\.77\.0\.{index + 1} [+-]0\.\d\d s {re.escape(own['python'])} "
            rf"{own['code']} cpu dram gpu measured {gpu.format(index, 0)}"
        )
        assert re.fullmatch(expected, first), first
        for number, line in enumerate(others, start=1):
            assert re.fullmatch(" +" + gpu.format(index, number), line), line
    assert len(table) == 1 + 3 * GPUS  # and not one line of a problem
    assert not (home / "deep").exists()


def test_whatever_is_wrong_is_named_with_its_node_and_nothing_is_spent(cluster, machines, home):
    other = machines.site(1) / "transformers-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.0.1\n")
    (machines.folder / "ahead").write_text("95")
    machines.gpus(1, "processes 2 0 4711")
    asked = ["private.yaml", "--address", cluster.address, "--results", home / "private" / "results"]
    done = cluster.hosts[0].run([COMMAND, "run", *asked], cwd=home, check=2)

    said = done.stderr.splitlines()
    here = versions()["transformers"]
    where = f"error: --address: {cluster.address}: host1: other versions than here: transformers 0.0.1, here {here}: "
    assert said[-1].startswith(where)
    assert said[-1].endswith("(and 3 more, above)")
    problems = [line for line in said if line.startswith("host")]
    assert [re.sub(r"9[45]\.\d s", "95 s", line).split(": ")[:2] for line in problems] == [
        ["host1", "other processes are on its GPUs, and their joules would count as ours"],
        ["host1", "its clock is 95 s ahead"],
        ["host2", "the results folder is not there"],
        ["host2", f"{home / 'private' / 'tickets.jsonl'}"],
    ]
    assert "GPU-12234567-of-host (4711)" in problems[0]
    assert "No such file or directory" in problems[3]
    assert not list((machines.folder / "elsewhere").iterdir())
    assert rows(home / "private" / "results", "attempts") == []
    assert "Traceback" not in done.stderr


def test_what_does_not_hinder_is_a_warning(check, machines, home):
    machines.gpus(1, "processes 2 0 4711")
    (machines.folder / "ahead").write_text("5")
    lines = check("mine.yaml", "--results", home / "shared").splitlines()[1 + 3 * GPUS :]
    assert [line.split(": ")[1][:25] for line in lines] == [
        "its clock is 5.0 s ahead"[:25],
        "other processes are on it",
    ]


def test_a_host_without_our_software_and_one_that_is_cut_off_are_named(check, machines, cluster):
    (machines.site(1) / "energyaware.py").write_text("raise SystemError('of somebody else')\n")
    cluster.hosts[2].cut()
    first, second = check("--timeout", "30", code=2).splitlines()[-2:]
    assert first.startswith("host1: energyaware cannot be loaded: of somebody else (")
    assert second.startswith("host2: does not answer: ")

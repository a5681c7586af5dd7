"""The shipped `ray up` file: Ray's own validators take it, five lines are a user's, nodes get what they need."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from cluster.launch.waiting import addresses_of

ROOT = Path(__file__).parents[2]
FILE = ROOT / "ray_config.yaml"
CONFIG = yaml.safe_load(FILE.read_text())


def test_ray_takes_it():
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(CONFIG)
    validate_config(prepared)
    [node_type] = prepared["available_node_types"].values()
    assert node_type["min_workers"] == prepared["max_workers"] == len(CONFIG["provider"]["worker_ips"])


def test_a_user_changes_five_lines():
    marked = [line for line in FILE.read_text().splitlines() if "# <-" in line]
    names = [line.strip().partition(":")[0] for line in marked]
    assert names == ["cluster_name", "head_ip", "worker_ips", "ssh_user", "ssh_private_key"]


def test_ray_starts_closed():
    head = CONFIG["head_start_ray_commands"][1]
    [worker] = CONFIG["worker_start_ray_commands"][1:]
    for command in (head, worker):
        assert "RAY_AUTH_MODE=token" in command
        assert "RAY_worker_niceness=0" in command
        assert "--node-ip-address" in command
    assert "--dashboard-host 127.0.0.1" in head
    assert CONFIG["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_address_of_a_node_is_the_one_that_ssh_came_in_by():
    snippet = re.search(r"--node-ip-address \$\((.+?)\)", CONFIG["head_start_ray_commands"][1])[1]
    done = subprocess.run(
        ["bash", "-c", snippet],
        env={"SSH_CONNECTION": "10.0.0.9 51234 10.0.0.2 22", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "10.0.0.2\n"


def test_the_path_is_extended_once(tmp_path):
    extend = CONFIG["setup_commands"][2]
    for _ in range(2):
        subprocess.run(["bash", "-c", extend], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True)
    assert (tmp_path / ".bashrc").read_text() == "export PATH=~/energyaware/.venv/bin:$PATH\n"


@pytest.mark.end_to_end
@pytest.mark.timeout(300)
def test_what_nodes_are_sent_can_be_installed(tmp_path):
    sent = tmp_path / "energyaware"
    sent.mkdir()
    for there, here in CONFIG["file_mounts"].items():
        if there.startswith("~/energyaware/"):
            target = sent / there.removeprefix("~/energyaware/")
            subprocess.run(["cp", "-r", str(ROOT / here), str(target)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(sent)]
    subprocess.run(command, check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"sweep/cli.py", "cluster/launch/slurm.sh", "analysis/load.py", "energyaware/rows.py"} <= set(names)


def test_the_file_names_its_nodes():
    assert addresses_of(FILE) == ("10.0.0.1", "10.0.0.2", "10.0.0.3")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: .+No such file"),
        ("a: [", "cannot be read: "),
        ("[]", "names its nodes"),
        ("provider: {type: aws}", "names its nodes"),
        ("", "names its nodes"),
        ("provider: {head_ip: a, worker_ips: }", "worker_ips a list of texts"),
        ("provider: {head_ip: a, worker_ips: 10.0.0.2}", "worker_ips a list of texts"),
        ("provider: {head_ip: a, worker_ips: [10.0.0.2, 7]}", "worker_ips a list of texts"),
        ("provider: {head_ip: , worker_ips: []}", "head_ip must be a text"),
    ],
)
def test_a_file_that_names_no_nodes_is_said_to(content, problem, tmp_path):
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=problem) as refused:
        addresses_of(file)
    assert "\n" not in str(refused.value)

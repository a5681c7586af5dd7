"""The shipped ray_config.yaml, with the five lines changed that users change: up over ssh, a sweep, down."""

import json
import re
import shutil
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from tests.daemons import names_of_processes, need, reached_by_ssh
from tests.end_to_end.command import COMMAND, rows
from tests.hosts import Hosts, need_hosts
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
DOWN_S = 120.0
TIDY = {"unshare", "sh", "sshd"}

SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{method: lora, steps: 4, batch_size: 8, sequence_length: 64, lora: {{rank: 4}}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1}}
resources: {{workers: 1, device: cpu}}
energy: {{idle_s: 0.2}}
"""


@pytest.fixture
def reached():
    need_hosts()
    need(["sshd", "ssh", "rsync"], "openssh-server, rsync")
    with Hosts(3) as hosts, reached_by_ssh(hosts) as key:
        yield hosts, key
        connections = sha256(hosts[0].namespace.encode()).hexdigest()[:10]
    for folder in Path("/tmp").glob(f"ray_ssh_*/{connections}"):  # `ray up` leaves it
        shutil.rmtree(folder)


def test_ray_up_a_sweep_and_ray_down(reached, tmp_path):
    hosts, key = reached
    head, worker, desk = hosts
    config = changed(yaml.safe_load((ROOT / "ray_config.yaml").read_text()), head, worker, key)
    file = tmp_path / "ray_config.yaml"
    file.write_text(yaml.safe_dump(config))
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)

    done = desk.run([RAY, "up", "--yes", file], cwd=ROOT, timeout_s=400)
    assert "New status: up-to-date" in without_colours(done.stdout)
    homes = [hosts.folder / host.name / "home" for host in (head, worker)]
    token = (hosts.home / ".ray" / "auth_token").read_text()
    for home in homes:
        assert (home / ".ray" / "auth_token").read_text() == token
        assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
        assert (home / "energyaware" / "sweep" / "cli.py").read_text() == (ROOT / "sweep" / "cli.py").read_text()
        assert not list((home / "energyaware").rglob("__pycache__"))
    assert token not in done.stdout + done.stderr
    # `ray up` came back once the worker had joined, though Ray itself does not wait for it.
    assert "raylet" in names_of_processes(worker)
    assert {address for address, port in listening(head) if port == 8265} == {"127.0.0.1"}
    assert not [port for _, port in listening(worker) if port == 8265]

    more = yaml.safe_load(file.read_text())
    more["provider"]["worker_ips"].append("10.77.0.99")
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(more))
    for nodes, missing in (("3", ""), (str(tmp_path / "more.yaml"), "; 10.77.0.99 did not")):
        asked = [COMMAND, "cluster", "wait", nodes, "--seconds", "1", "--address", f"{head.address}:6379"]
        said = head.run(asked, check=2).stderr.splitlines()[-1]
        assert said.endswith(f": 2 of 3 nodes joined within 1 s{missing}")

    run = f"cd {tmp_path} && energyaware run mine.yaml --results {tmp_path}/results --address auto"
    done = desk.run([RAY, "exec", file, run], cwd=ROOT, timeout_s=400)
    assert "results in" in done.stdout + done.stderr
    assert [row["state"] for row in rows(tmp_path / "results", "attempts")] == ["finished", "finished"]
    assert {row["node"] for row in rows(tmp_path / "results", "nodes")} == {head.name, worker.name}

    desk.run([RAY, "down", "--yes", file], cwd=ROOT)
    deadline_s = time.monotonic() + DOWN_S
    while left := [name for host in (head, worker) for name in names_of_processes(host) if name not in TIDY]:
        assert time.monotonic() < deadline_s, left
        time.sleep(1)


def changed(config, head, worker, key):
    """The five lines of a user. And what would take minutes and a network is there already."""
    config["cluster_name"] = head.namespace  # Ray keeps files under it
    config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
    config["auth"] |= {"ssh_user": "root", "ssh_private_key": str(key)}
    venv, install, path = config["setup_commands"]
    assert "python3 -m venv" in venv
    assert "pip install" in install
    config["setup_commands"] = [f"ln -sfn {sys.prefix} ~/energyaware/.venv", path]
    return config


def listening(host):
    """Addresses and ports that anything on the host takes connections at."""
    seen = subprocess.run(
        ["ip", "netns", "exec", host.namespace, sys.executable, "-c", LISTENING],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(seen.stdout)
    assert len(found) > 3
    return found


LISTENING = """
import json, psutil
print(json.dumps([tuple(each.laddr) for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]))
"""


def without_colours(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)

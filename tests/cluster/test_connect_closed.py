"""Closed by default: a run on this machine listens on loopback alone, and a node needs the cluster's token to join."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts import PORT, Cluster, Hosts, need_hosts

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[2]
LISTENERS = """
import json, os, psutil, ray
from cluster.connect import join
from cluster.ray_start import apart_and_light
from cluster.reaper import MARK, marked, reaped

@ray.remote
def work():
    return os.getpid()

with reaped():
    with apart_and_light(), join("local"):
        pid = ray.get(work.remote())
        processes = {process.pid: process for process in [psutil.Process(), *marked(os.environ[MARK])]}
        links = [link for process in processes.values() for link in process.net_connections()]
        links = [link for link in links if link.status == "LISTEN"]
        print(json.dumps([pid in processes, sorted({link.laddr.ip for link in links}), len(links)]))
"""
ALIVE = """
import ray, sys
ray.init(sys.argv[1], log_to_driver=False)
print([node["NodeManagerHostname"] for node in ray.nodes()])
"""


def test_a_run_on_this_machine_listens_on_loopback_alone():
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS], cwd=ROOT, capture_output=True, text=True, timeout=200, check=True
    )
    has_worker, addresses, count = json.loads(done.stdout.splitlines()[-1])
    assert has_worker
    assert count >= 4, "Ray's control store, node, agent and worker"
    assert set(addresses) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture(scope="module")
def hosts():
    need_hosts()
    with Hosts(2) as hosts:
        Cluster(hosts).start(0)
        yield hosts


@pytest.mark.parametrize("token", ["", "ab" * 32], ids=["no token", "another token"])
def test_a_node_that_has_not_the_clusters_token_does_not_join(hosts, token):
    home = hosts.folder / f"home-{len(token)}"
    (home / ".ray").mkdir(parents=True)
    if token:
        (home / ".ray" / "auth_token").write_text(token)
    address = f"{hosts[0].address}:{PORT}"
    command = [Path(sys.executable).with_name("ray"), "start", "--address", address]
    command += ["--node-ip-address", hosts[1].address, "--num-cpus", "1", "--disable-usage-stats"]
    with hosts[1].popen(command, HOME=str(home)) as joining:
        said, errors = joining.communicate(timeout=200)
    assert joining.returncode != 0
    assert "token" in (said + errors).lower()
    assert hosts[0].run([sys.executable, "-c", ALIVE, address]).stdout.strip() == "['host0']"

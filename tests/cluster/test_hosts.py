"""Clusters of real hosts: what tests/hosts.py makes of one machine, joining, and a gang over two nodes."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.gang import interface_of
from tests.hosts import Cluster, Hosts, need_hosts

ROOT = Path(__file__).parents[2]
GONE_S = 30.0
KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
except OSError as problem:
    print(type(problem).__name__)
"""
JOIN = """
import sys
from cluster.connect import join
try:
    with join(sys.argv[1]):
        print("joined")
except ConnectionError as problem:
    print(problem)
"""
ALIVE = """
import ray, sys
ray.init(sys.argv[1])
print(sorted(node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]))
"""
KEEP_HOSTS = """
from tests.hosts import Hosts
import time
with Hosts(1) as hosts:
    sleeper = hosts[0].popen(["sleep", "1000"])
    print(hosts.prefix, sleeper.pid, hosts.folder, flush=True)
    time.sleep(1000)
"""


def knock(host, address, port=9):
    """What becomes of a connection; to a port where nobody listens it is refused if the host can be reached."""
    return host.run([sys.executable, "-c", KNOCK, address, port]).stdout


def wait_for(what):
    deadline_s = time.monotonic() + GONE_S
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster():
    """Ray on hosts 0 and 1, and host 2 without."""
    need_hosts()
    with Hosts(3, PYTHONPATH=str(ROOT)) as hosts:
        cluster = Cluster(hosts)
        cluster.start(0)
        cluster.start(1)
        yield cluster


def test_hosts_have_names_and_a_network_of_their_own_whose_links_can_be_cut():
    need_hosts()
    with Hosts(2) as hosts:
        assert [host.run(["hostname"]).stdout.strip() for host in hosts] == ["host0", "host1"]
        assert "ConnectionRefused" in knock(hosts[0], "host1")
        assert interface_of(hosts[0].address) is None, "this machine has no part in it"
        hosts[1].cut()
        assert "ConnectionRefused" not in knock(hosts[0], "host1")
        assert "ConnectionRefused" in knock(hosts[1], "localhost")
        hosts[1].mend()
        wait_for(lambda: "ConnectionRefused" in knock(hosts[0], "host1"))
        hosts[0].run(["touch", hosts.temporary / "mine"])
        assert hosts[1].run(["ls", hosts.temporary]).stdout == ""
    assert not hosts.folder.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_hosts_whose_maker_was_killed(number):
    need_hosts()
    command = [sys.executable, "-c", KEEP_HOSTS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as maker:
        prefix, sleeper, folder = maker.stdout.readline().split()
        assert namespaces(prefix)
        maker.send_signal(number)
    wait_for(lambda: not namespaces(prefix) and not Path(folder).exists() and is_gone(int(sleeper)))


def is_gone(pid):
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def namespaces(prefix):
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.startswith(prefix)]


def test_a_gang_over_two_nodes_finds_the_network_between_them(cluster):
    host = cluster.hosts[0]
    done = host.run([sys.executable, "-m", "tests.cluster.spanning", cluster.address, "2"], cwd=ROOT)
    first, second = json.loads(done.stdout)
    assert {first["node"], second["node"]} == {"host0", "host1"}
    for rank in (first, second):
        assert rank["sum"] == 1 + 2
        assert rank["local_rank"] == 0
        assert rank["interfaces"] == ["eth0", "=eth0"]


@pytest.mark.parametrize(
    ("host", "address", "problem"),
    [
        (0, "10.77.0.2:6379", "nobody answers"),
        (0, "10.77.0.99:6379", "nobody answers"),
        (0, "nowhere:6379", "nobody answers"),
        (0, "ray://10.77.0.1:10001", "must be local, auto or HOST:PORT"),
        (0, "10.77.0.1", "must be local, auto or HOST:PORT"),
        (2, "host0:6379", "this machine is no node of the cluster"),
        (1, "host0:6379", "joined"),
    ],
)
def test_joining_says_in_one_line_what_to_check(cluster, host, address, problem):
    done = cluster.hosts[host].run([sys.executable, "-c", JOIN, address], cwd=ROOT)
    assert problem in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("content", ["", "ab" * 32], ids=["no token", "another token"])
def test_a_cluster_lets_in_who_has_its_token(cluster, content):
    home = cluster.hosts.folder / f"home-{len(content)}"
    (home / ".ray").mkdir(parents=True)
    if content:
        (home / ".ray" / "auth_token").write_text(content)
    done = cluster.hosts[0].run([sys.executable, "-c", JOIN, cluster.address], cwd=ROOT, HOME=str(home))
    assert "refuses the token" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_port_that_is_not_rays_is_not_waited_for(cluster):
    host = cluster.hosts[0]
    with host.popen([sys.executable, "-m", "http.server", "7000"]) as other:
        try:
            wait_for(lambda: "ConnectionRefused" not in knock(host, "host0", port=7000))
            done = host.run([sys.executable, "-c", JOIN, "host0:7000"], cwd=ROOT)
        finally:
            other.kill()
    assert "is it the port of Ray's head?" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_host_that_loses_power_leaves_the_cluster_and_comes_back(cluster):
    def alive():
        return cluster.hosts[0].run([sys.executable, "-c", ALIVE, cluster.address]).stdout.strip()

    assert alive() == "['host0', 'host1']"
    cluster.kill_raylet(1)
    assert not cluster.hosts[1].processes()
    assert cluster.hosts[0].processes()
    wait_for(lambda: alive() == "['host0']")
    cluster.start(1)
    assert alive() == "['host0', 'host1']"

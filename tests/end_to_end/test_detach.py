"""Detached runs, as users start them: from a terminal that is closed, and as jobs of a Ray cluster of one node."""

import contextlib
import json
import os
import pty
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from cluster.reaper import reaped
from tests.end_to_end.command import COMMAND, energyaware, rows
from tests.hosts import OBJECT_STORE_BYTES, PORT, Hosts, need_hosts
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

RAY = str(Path(sys.executable).with_name("ray"))
DEADLINE_S = 120.0
SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: [fp32]
prunings: [none]
finetune: {{method: lora, steps: 4, batch_size: 8, sequence_length: 64, lora: {{rank: 4}}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1, test_examples: 8}}
resources: {{workers: 1, cpus_per_worker: 0.5}}
energy: {{idle_s: 0.2, heartbeat_s: 0.5}}
"""
LONG = SWEEP.replace("min_window_s: 0.1", "min_window_s: 12")
ENDLESS = SWEEP.replace("steps: 4", "steps: 1000000")


@pytest.fixture
def home(tmp_path):
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    (tmp_path / "long.yaml").write_text(LONG)
    (tmp_path / "endless.yaml").write_text(ENDLESS)
    return tmp_path


@contextlib.contextmanager
def detached_here(results):
    """The process that a run was detached as; killed at the end, and what it started goes with it."""
    process = psutil.Process(json.loads((results / "detached.json").read_text())["pid"])
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def status(results, env=None):
    return json.loads(energyaware("status", results, "--format", "json", cwd=results, env=env).stdout)


def finished(results, env=None):
    watched = energyaware("status", results, "--watch", cwd=results, env=env).stdout
    assert watched.splitlines()[-1] == "nothing is running and nothing is left", watched
    return {row["kind"] for row in rows(results, "stages")} == {"finetune", "inference"}


def read_until(terminal, end):
    """What a terminal shows, until it shows `end`."""
    shown, deadline_s = "", time.monotonic() + DEADLINE_S
    while end not in shown:
        assert time.monotonic() < deadline_s, shown
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 65536).decode()
    return shown


def test_a_detached_run_outlives_its_terminal_and_all_that_was_started_there(home):
    screen, terminal = pty.openpty()
    # Whoever leads a session and opens a terminal gets it as its own, and SIGHUP when it is closed.
    script = f"exec < {os.ttyname(terminal)} > {os.ttyname(terminal)} 2>&1; {COMMAND} run long.yaml --detach; "
    shell = subprocess.Popen(
        ["sh", "-c", script + "echo code $?.; sleep 600"],
        cwd=home,
        start_new_session=True,
        # Tests that were started by nohup would make it ignore that signal.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509
    )
    shown = read_until(screen, "code ")
    os.close(terminal)
    os.close(screen)
    assert shell.wait(timeout=DEADLINE_S) == -signal.SIGHUP, shown

    results = home / "results" / "long"
    with detached_here(results) as process:
        assert process.is_running()
        assert (os.getsid(process.pid), process.terminal()) == (process.pid, None)
        assert f"process {process.pid}, since" in status(results)["held_by"]
        assert f"kill {process.pid}" in shown
        assert finished(results)
    assert "results in" in (results / "run.log").read_text()


def test_a_second_launcher_is_refused_and_a_stopped_run_leaves_a_checkpoint(home):
    results = home / "mine"
    energyaware("run", "endless.yaml", "--results", results, "--detach", cwd=home)
    with detached_here(results) as process:
        refused = energyaware("resume", results, "--detach", cwd=home, check=2)
        assert f"is being written by {psutil.Process().username()}@" in refused.stderr
        assert f"process {process.pid}, since" in refused.stderr
        until_training(results)
        process.terminate()
        process.wait(timeout=DEADLINE_S)
    assert list(results.glob("checkpoints/*/*/COMMIT"))
    assert status(results)["held_by"] is None


def until_training(results, env=None):
    deadline_s = time.monotonic() + DEADLINE_S
    while not any(row["step"] for row in status(results, env)["running"]):
        assert time.monotonic() < deadline_s
        time.sleep(0.5)


class Head:
    """Ray's head on this machine's loopback, inside `head`."""

    def __init__(self, folder, ports):
        self.address, self.server = f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        self.env = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback alone
            "OMP_NUM_THREADS": "1",
        }

    def job(self, *arguments):
        """Ray's own command line for jobs."""
        command = [RAY, "job", *arguments, "--address", self.server]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def until(self, job, state):
        deadline_s = time.monotonic() + DEADLINE_S
        while f"Job '{job}' {state}" not in (told := self.job("status", job)):
            assert time.monotonic() < deadline_s, told
            time.sleep(0.5)


@contextlib.contextmanager
def head(dashboard):
    folder = Path(tempfile.mkdtemp(prefix="ea", dir="/tmp"))  # short: Ray has sockets in it
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(secrets.token_hex(32))
    ports = free_ports(3)
    command = [
        *(RAY, "start", "--head", "--port", ports[0], "--node-ip-address", "127.0.0.1", "--temp-dir", folder / "t"),
        *("--include-dashboard", dashboard, "--dashboard-host", "127.0.0.1", "--dashboard-port", ports[1]),
        *("--dashboard-agent-listen-port", ports[2], "--num-cpus", 1, "--object-store-memory", 100 * 2**20),
        "--disable-usage-stats",
    ]
    try:
        with reaped():
            started = Head(folder, ports)
            done = subprocess.run(
                list(map(str, command)), env=started.env, cwd=folder, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count):
    with contextlib.ExitStack() as sockets:
        probes = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="module")
def cluster():
    with head(dashboard=True) as started:
        yield started


def test_a_run_detached_on_a_cluster_is_a_job_that_goes_on_without_who_submitted_it(home, cluster):
    command = ("run", "mine.yaml", "--results", "r", "--address", cluster.address, "--detach")
    told = energyaware(*command, cwd=home, env=cluster.env).stdout
    about = json.loads((home / "r" / "detached.json").read_text())
    assert about["server"] == cluster.server
    assert f"ray job stop {about['job']} --address {cluster.server}" in told
    refused = energyaware(*command, cwd=home, env=cluster.env, check=2).stderr
    assert f"error: {home}/r: results: is being written by" in refused
    assert "RUNNING" in cluster.job("status", about["job"])
    assert finished(home / "r")
    cluster.until(about["job"], "succeeded")

    again = energyaware("resume", "r", "--address", cluster.address, "--detach", cwd=home, env=cluster.env).stdout
    assert "0 to run" in again


def test_a_stopped_job_has_the_time_to_leave_a_checkpoint(home, cluster):
    command = ("run", "endless.yaml", "--results", "r", "--address", cluster.address, "--detach")
    energyaware(*command, cwd=home, env=cluster.env)
    job = json.loads((home / "r" / "detached.json").read_text())["job"]
    until_training(home / "r")
    cluster.job("stop", job)
    cluster.until(job, "was stopped")
    assert list((home / "r").glob("checkpoints/*/*/COMMIT"))
    assert status(home / "r")["held_by"] is None


def test_what_a_job_refuses_is_told_to_who_submitted_it(home, cluster):
    (home / "tickets.jsonl").unlink()
    command = ("run", "mine.yaml", "--results", "r", "--address", cluster.address, "--detach")
    refused = energyaware(*command, cwd=home, env=cluster.env, check=2).stderr
    assert refused == f"error: {home}/tickets.jsonl: data.path: no such file\n"
    assert not (home / "r" / "detached.json").exists()


def test_a_cluster_without_a_job_server_is_told_how_to_have_one(home):
    with head(dashboard=False) as started:
        command = ("run", "mine.yaml", "--results", "r", "--address", started.address, "--detach")
        refused = energyaware(*command, cwd=home, env=started.env, check=2).stderr
    assert refused.startswith(
        f"error: --address: {started.address}: the cluster has no job server: start its head with"
    )
    assert not (home / "r").exists()


def test_from_another_node_the_heads_own_job_server_is_not_taken_for_one_here(home):
    need_hosts()
    with Hosts(2) as hosts:
        address = f"{hosts[0].address}:{PORT}"
        common = ("--num-cpus", 1, "--object-store-memory", OBJECT_STORE_BYTES, "--disable-usage-stats")
        dashboard = ("--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--temp-dir", hosts.temporary)
        own = ("--head", "--port", PORT, *dashboard), ("--address", address)
        for host, options in zip(hosts, own, strict=True):
            host.run([RAY, "start", *options, "--node-ip-address", host.address, *common])
        command = [COMMAND, "run", home / "mine.yaml", "--results", home / "r", "--address", address, "--detach"]
        refused = hosts[1].run(command, check=2).stderr
        assert f"its job server listens on the head's own 127.0.0.1:8265: run this on {hosts[0].address}" in refused
        assert not (home / "r").exists()
        assert "detached as Ray job" in hosts[0].run(command).stdout
        assert "is being written by" in hosts[0].run(command, check=2).stderr

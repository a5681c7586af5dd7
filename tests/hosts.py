"""A cluster of real hosts on one machine: network namespaces with addresses of their own, and Ray on them.

What is shared is what a cluster shares: the file system. Each host has its own network, loopback, host name and folder
for temporary files. The bridge that joins them stands in a namespace of its own, so the machine's network is untouched.
"""

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

REQUIRED = "ENERGYAWARE_HOSTS_REQUIRED"
"""Environment variable: where it is set, hosts that cannot be made are an error, and no test is skipped."""

PORT = 6379
OBJECT_STORE_BYTES = 100 * 2**20
DEATH_S = 20.0

NOTICE_DEATHS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "8",
}
"""Of Ray: a host that is cut off is dead after 8 s."""

INSIDE = """
hostname "$1" && mount --bind "$2" "$3" && mount --bind "$4" /etc/hosts && shift 4 || exit
while test "$1" != --; do mount --bind "$1" "$2" && shift 2 || exit; done
shift && exec "$@"
"""
"""In namespaces of its own for host name and mounts: the host's folder for temporary files, its /etc/hosts, others."""

CLEAN_UP = """
folder=$1; shift
cat > /dev/null
for name in "$@"; do
    for try in $(seq 100); do
        found=$(ip netns pids "$name") && test -n "$found" || break
        kill -KILL $found 2> /dev/null
        sleep 0.1
    done
    ip netns delete "$name"
done
rm -rf "$folder"
"""
"""Waits until the tests' process closes its end of a pipe, which it also does when it is killed."""

_numbers = itertools.count()


def why_unavailable():
    """Why hosts cannot be made here; None where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if missing := [tool for tool in ("ip", "unshare", "mount", "hostname") if not shutil.which(tool)]:
        return f"no {missing[0]} on this machine (Debian: iproute2, util-linux, hostname)"
    probe = f"ea{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are refused here: {made.stderr.strip()}"
    _ip("netns", "delete", probe)
    return None


def need_hosts():
    """Skip the test where hosts cannot be made."""
    if reason := why_unavailable():
        assert REQUIRED not in os.environ, reason
        pytest.skip(reason)


class Host:
    """One host: a network namespace, and what is run in it.

    Attributes:
        environment: variables that the host's processes have besides.
        mounts: folders that lie in the place of others there, by those others.
    """

    def __init__(self, hosts, index):
        self.hosts, self.index = hosts, index
        self.name, self.address = f"host{index}", f"10.77.0.{index + 1}"
        self.namespace = f"{hosts.prefix}-{index}"
        self.own = []
        self.environment, self.mounts = {}, {}

    def popen(self, command, *, cwd=None, output=None, **environment):
        """Start a command on the host, its output to a file or to pipes. It is no part of a cluster on it."""
        process = subprocess.Popen(
            self._wrapped(command),
            cwd=cwd or self.hosts.folder,
            env=self.hosts.environment | self.environment | environment,
            stdout=output or subprocess.PIPE,
            stderr=subprocess.STDOUT if output else subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.own.append(process.pid)
        return process

    def run(self, command, *, cwd=None, check=0, timeout_s=200, **environment):
        """Run a command on the host to its end."""
        with self.popen(command, cwd=cwd, **environment) as process:
            try:
                output, errors = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                output, errors = process.communicate()
                raise AssertionError(f"{command} on {self.name} did not end:\n{output}{errors}") from None
        assert process.returncode == check, f"{command} on {self.name}: {process.returncode}\n{output}{errors}"
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def processes(self):
        """All processes of the host, but not those that a test started on it, nor their children."""
        own = set()
        for pid in self.own:
            with contextlib.suppress(psutil.NoSuchProcess):
                own |= {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
        found = []
        for pid in _ip("netns", "pids", self.namespace).split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [psutil.Process(int(pid))] if int(pid) not in own else []
        return found

    def cut(self):
        """Unplug the host: packets are lost, no connection is closed."""
        _ip("-n", self.hosts.switch, "link", "set", f"port{self.index}", "down")

    def mend(self):
        """Plug the host in again."""
        _ip("-n", self.hosts.switch, "link", "set", f"port{self.index}", "up")

    def _make(self):
        _ip("netns", "add", self.namespace)
        link = ("eth0", "netns", self.namespace, "type", "veth", "peer", "name", f"port{self.index}")
        _ip("link", "add", *link, "netns", self.hosts.switch)
        _ip("-n", self.hosts.switch, "link", "set", f"port{self.index}", "master", "bridge", "up")
        _ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            _ip("-n", self.namespace, "link", "set", interface, "up")
        (self.hosts.folder / self.name).mkdir()

    def _wrapped(self, command):
        own, names = self.hosts.folder / self.name, self.hosts.folder / "hosts"
        mounts = [folder for place, folder in self.mounts.items() for folder in (folder, place)]
        inside = ["sh", "-c", INSIDE, "sh", self.name, own, self.hosts.temporary, names, *mounts, "--", *command]
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "--mount", *map(str, inside)]


class Hosts:
    """Hosts inside a `with`; after it, or once this process is gone, nothing is left of them.

    Args:
        count: how many.
        environment: variables that all of their processes have.
    """

    def __init__(self, count, **environment):
        self.prefix = f"ea{os.getpid()}-{next(_numbers)}"
        self.switch = f"{self.prefix}-switch"
        self.folder = Path(tempfile.mkdtemp(prefix="ea", dir="/tmp"))  # short: Ray has sockets in it
        self.temporary = self.folder / "t"
        self.home = self.folder / "home"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GLOO_", "XDG_"))}
        self.environment = kept | {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),  # what was compiled once
            "TMPDIR": str(self.temporary),
            "RAY_AUTH_MODE": "token",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self._hosts = [Host(self, index) for index in range(count)]

    def __enter__(self):
        namespaces = [self.switch, *(host.namespace for host in self)]
        self._janitor = subprocess.Popen(
            ["sh", "-c", CLEAN_UP, "sh", self.folder, *namespaces],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def __getitem__(self, index):
        return self._hosts[index]

    def __len__(self):
        return len(self._hosts)

    def close(self):
        """Kill all that runs on the hosts, and remove them."""
        self._janitor.stdin.close()
        self._janitor.wait()

    def _make(self):
        self.temporary.mkdir()
        (self.home / ".ray").mkdir(parents=True)
        token = self.home / ".ray" / "auth_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        names = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in self)]
        (self.folder / "hosts").write_text("\n".join(names) + "\n")
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "bridge", "up")
        for host in self:
            host._make()


class Cluster:
    """Ray on hosts, from host 0, inside a `with`.

    Args:
        hosts: where.
        cpus: of each host.
        environment: variables of all of Ray's processes.
    """

    def __init__(self, hosts, cpus=1, **environment):
        self.hosts, self.cpus = hosts, cpus
        self._environment = NOTICE_DEATHS | environment
        self.address = f"{hosts[0].address}:{PORT}"

    def __enter__(self):
        for host in self.hosts:
            self.start(host.index)
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, index):
        """Start Ray on a host: as head on host 0, as worker that joins it on others."""
        role = ["--address", self.address]
        if index == 0:
            role = ["--head", "--port", PORT, "--temp-dir", self.hosts.temporary, "--include-dashboard", "false"]
        command = [
            *(Path(sys.executable).with_name("ray"), "start", *role, "--node-ip-address", self.hosts[index].address),
            *("--num-cpus", self.cpus, "--object-store-memory", OBJECT_STORE_BYTES, "--disable-usage-stats"),
        ]
        self.hosts[index].run(command, **self._environment)

    def kill_raylet(self, index):
        """SIGKILL all of Ray's processes on a host, as when it loses power."""
        deadline_s = time.monotonic() + DEATH_S
        while processes := self.hosts[index].processes():
            assert time.monotonic() < deadline_s, processes
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(processes, timeout=1)

    def restart(self, index):
        """Kill Ray on a host, and start it again."""
        self.kill_raylet(index)
        self.start(index)

    def stop(self):
        """SIGKILL all of Ray's processes. Ray's own `ray stop` would take those of others with them."""
        for host in self.hosts:
            self.kill_raylet(host.index)


def _ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout

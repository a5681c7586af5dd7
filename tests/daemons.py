"""Daemons on hosts of tests/hosts.py, each host with a process table of its own: what stops or kills by name there,
as `ray stop` does, reaches nothing else. And a real sshd on each.
"""

import os
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.hosts import REQUIRED

OWN_PROCESSES = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")

READY_S = 30.0

SSHD_CONFIGURATION = """
ListenAddress {address}
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
PidFile {own}/sshd.pid
PasswordAuthentication no
UsePAM no
StrictModes no
SetEnv TMPDIR={temporary} XDG_CACHE_HOME={cache}
"""
"""StrictModes: the key lies in a folder of the tests."""

SSHD = 'mount --bind "$1/passwd" /etc/passwd && exec /usr/sbin/sshd -D -e -f "$1/sshd_config"'


def need(tools, packages):
    """Skip the test where a program is missing."""
    for tool in tools:
        if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin"):
            assert REQUIRED not in os.environ, tool
            pytest.skip(f"no {tool} on this machine (Debian: {packages})")


@contextmanager
def booted(host, command, log, **environment):
    """Run a daemon as process 1 of a host, inside a `with`; with it ends all that runs beside it."""
    with log.open("w") as output, host.popen([*OWN_PROCESSES, *command], output=output, **environment) as process:
        try:
            yield
        finally:
            process.kill()


def names_of_processes(host):
    """Of all that runs on the host."""
    pids = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True)
    names = []
    for pid in pids.stdout.split():
        try:
            names.append(psutil.Process(int(pid)).name())
        except psutil.NoSuchProcess:
            continue
    return names


@contextmanager
def reached_by_ssh(hosts):
    """Let root in on all hosts, inside a `with`, with the private key that it gives; at home in a folder per host."""
    keys = hosts.folder / "ssh"
    keys.mkdir()
    for name in ("user", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    with ExitStack() as daemons:
        for host in hosts:
            own = hosts.folder / host.name
            (own / "home").mkdir()
            passwd = Path("/etc/passwd").read_text().replace(":/root:", f":{own}/home:", 1)
            (own / "passwd").write_text(passwd)
            settings = {"address": host.address, "keys": keys, "own": own, "temporary": hosts.temporary}
            settings["cache"] = hosts.environment["XDG_CACHE_HOME"]
            (own / "sshd_config").write_text(SSHD_CONFIGURATION.format(**settings))
            daemons.enter_context(booted(host, ["sh", "-c", SSHD, "sh", own], own / "sshd.log"))
        for host in hosts:
            log, deadline_s = hosts.folder / host.name / "sshd.log", time.monotonic() + READY_S
            while "Server listening" not in log.read_text():
                assert time.monotonic() < deadline_s, log.read_text()
                time.sleep(0.1)
        yield keys / "user"

"""What a launcher started is gone when the launcher is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

LAUNCHER = """
import os, signal, subprocess, sys
from cluster.reaper import reaped
with reaped():
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True, stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
    if sys.argv[1] == "wait":
        signal.pause()
    elif sys.argv[1] == "raise":
        raise KeyError
print("left", flush=True)
"""


def gone(pid, timeout_s=30):
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def launch(how):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, how],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_launcher_started_is_ended_even_if_it_will_not(number):
    launcher = launch("wait")
    child = int(launcher.stdout.readline())
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        os.killpg(launcher.pid, number)
        assert gone(child)
        assert bystander.poll() is None, "only what carries the launcher's mark is ended"
    finally:
        bystander.kill()
        bystander.wait()
        launcher.communicate()


@pytest.mark.parametrize("how", ["end", "raise"])
def test_nothing_is_left_when_the_block_ends(how):
    launcher = launch(how)
    child = int(launcher.stdout.readline())
    launcher.communicate()
    assert gone(child, timeout_s=0.5)

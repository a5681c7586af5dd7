"""One signal asks, the second ends: tried on a real process, for signals are one process's own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.jobs import JOB_STOP
from sweep.stopping import _system_patience_s

PROGRAM = """
import sys, threading, time
import sweep.stopping as module
from sweep.stopping import stopping
module.SYSTEM_PATIENCE_S = 0.5
asked = threading.Event()
def stop():
    print("asked", threading.current_thread() is threading.main_thread(), flush=True)
    asked.set()
try:
    with stopping(stop):
        print("ready", flush=True)
        if sys.argv[1] == "heed":
            asked.wait(60)
        else:
            time.sleep(60)
    print("done", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def start(how, hangup=signal.SIG_DFL):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),  # noqa: PLW1509
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_asks_and_the_block_ends_by_itself(number):
    process = start("heed")
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == "asked False\ndone\n"


def test_what_nohup_has_ignored_stays_ignored():
    process = start("heed", hangup=signal.SIG_IGN)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "asked False\ndone\n"


def test_the_second_one_ends_it_at_once():
    process = start("ignore")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked False\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "interrupted\n"


def test_a_system_that_asks_is_not_kept_waiting():
    process = start("ignore")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "asked False\ninterrupted\n"


@pytest.mark.parametrize(("given", "patience_s"), [(None, 20.0), ("60", 55.0), ("3", 20.0)])
def test_a_job_takes_the_time_that_ray_gives_it(monkeypatch, given, patience_s):
    monkeypatch.delenv(JOB_STOP, raising=False)
    if given:
        monkeypatch.setenv(JOB_STOP, given)
    assert _system_patience_s() == patience_s

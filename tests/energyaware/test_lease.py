"""Two launchers on one set of results: one is refused, or takes over what the other left."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from energyaware.errors import Fenced, InputError
from energyaware.files import open_files
from energyaware.lease import Lease, newest_lease, this_process

pytest_plugins = "tests.s3"

ROOT = Path(__file__).parents[2]
QUICK = {"heartbeat_s": 0.1, "stale_s": 0.6}

HOLDING = """
import sys, time
from energyaware.files import open_files
from energyaware.lease import Lease, this_process
lease = Lease.take(open_files(sys.argv[1]), this_process(["energyaware", "run"]), heartbeat_s=0.1)
print(lease.number, flush=True)
time.sleep(600)
"""


@pytest.fixture(params=["folder", "s3"])
def files(request, tmp_path):
    return open_files(tmp_path if request.param == "folder" else request.getfixturevalue("bucket") + "/results")


@pytest.fixture
def holder(files):
    """Another process that holds the results."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, files.url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "1\n"
        yield process
        process.kill()


def take(files, **settings):
    return Lease.take(files, this_process(["energyaware", "run"]), **QUICK | settings)


def content(files, number):
    return json.loads(files.read(f"lease/{number:06d}.json"))


def left_elsewhere(files, number=1, *, age_s=0.0, **columns):
    """The lease of a launcher on another machine."""
    beat = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    about = {
        "host": "node7", "machine": "another", "pid": os.getpid(), "user": "ada",
        "started_at": "2026-05-01T12:00:00+00:00", "heartbeat_s": 0.1, "released": False, "beat_at": beat,
    } | columns  # fmt: skip
    files.write(f"lease/{number:06d}.json", json.dumps(about).encode())
    return about


def test_a_lease_says_who_holds_the_results_and_gives_signs_of_life(files):
    assert newest_lease(files) == 0
    with take(files) as lease:
        first = content(files, 1)
        assert lease.number == newest_lease(files) == 1
        assert first.items() >= {"pid": os.getpid(), "command": "energyaware run", "released": False}.items()
        assert first.keys() >= {"host", "user", "started_at", "beat_at"}
        until(lambda: content(files, 1)["beat_at"] > first["beat_at"])
        lease.check()
    assert content(files, 1)["released"]


def test_one_that_was_released_is_taken_at_once_and_numbers_grow(files):
    for number in (1, 2, 3):
        with take(files, stale_s=600.0) as lease:
            assert lease.number == number
            assert files.names("lease") == [f"lease/{number:06d}.json"], "older ones are removed"


def test_a_second_launcher_is_refused_and_told_by_whom(files, holder):
    with pytest.raises(InputError) as refused:
        take(files)
    said, about = str(refused.value), content(files, 1)
    since = about["started_at"].replace("T", " ").removesuffix("+00:00")
    assert f"is being written by {about['user']}@{about['host']}, process {holder.pid}, since {since} UTC" in said
    assert re.search(r"last sign of life \d+ s ago; wait for it, stop it, or use --results", said)
    assert files.names("lease") == ["lease/000001.json"]


def test_a_process_that_is_stopped_still_holds_its_lease(files, holder):
    holder.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    with pytest.raises(InputError, match=f"process {holder.pid}"):
        take(files, stale_s=0.1)


@pytest.mark.parametrize("reaped", [True, False])
def test_the_lease_of_a_killed_process_of_this_machine_is_taken_at_once(files, holder, reaped):
    holder.kill()
    if reaped:
        holder.wait()
    else:
        until(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_ZOMBIE)
    with take(files, stale_s=3600.0) as lease:
        assert lease.number == 2


def test_a_process_with_the_number_of_a_dead_one_is_not_it(files):
    with take(files):
        mine = content(files, 1)
    left_elsewhere(files, 2, machine=mine["machine"], process_started_ticks=mine["process_started_ticks"] - 100)
    with take(files, stale_s=3600.0) as lease:
        assert lease.number == 3


def test_a_living_process_holds_its_lease_after_the_clock_was_set(files, holder, monkeypatch):
    boot_s = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_s + 2.0)  # of which psutil makes times of starts
    with pytest.raises(InputError, match=f"process {holder.pid}"):
        take(files, stale_s=0.1)


@pytest.mark.parametrize("beating", [True, False])
def test_of_an_older_version_whose_start_looks_different_signs_of_life_are_watched_for(files, beating):
    with take(files):
        mine = content(files, 1)
    then = {"machine": mine["machine"], "process_started": mine["process_started"] - 2.0}
    about, stop = left_elsewhere(files, **then), threading.Event()
    thread = threading.Thread(target=beats, args=(files, about, stop))
    if beating:
        thread.start()
        try:
            with pytest.raises(InputError, match="is being written by ada@node7"):
                take(files, stale_s=20.0)
        finally:
            stop.set()
            thread.join()
    else:
        with take(files) as lease:
            assert lease.number == 2


def beats(files, about, stop, by=timedelta(seconds=0)):
    """Signs of life from a machine whose clock is wrong."""
    while not stop.wait(0.05):
        beat_at = (datetime.now(UTC) + by).isoformat()
        files.write("lease/000001.json", json.dumps(about | {"beat_at": beat_at}).encode())


@pytest.mark.parametrize("fast_s", [-3600, 0, 3600])
def test_a_launcher_elsewhere_that_lives_is_believed_whatever_its_clock_says(files, fast_s):
    about, stop = left_elsewhere(files, age_s=-fast_s), threading.Event()
    beating = threading.Thread(target=beats, args=(files, about, stop, timedelta(seconds=fast_s)))
    beating.start()
    try:
        with pytest.raises(InputError, match=r"ada@node7, process \d+, since 2026-05-01 12:00:00 UTC, last sign of"):
            take(files, heartbeat_s=1.0, stale_s=20.0)
    finally:
        stop.set()
        beating.join()
    assert files.names("lease") == ["lease/000001.json"]


@pytest.mark.parametrize("age_s", [-3600, 0, 3600])
def test_a_launcher_elsewhere_that_died_is_taken_over_after_a_silence_whatever_its_clock_said(files, age_s):
    left_elsewhere(files, age_s=age_s)
    began_s = time.monotonic()
    with take(files) as lease:
        assert lease.number == 2
    assert time.monotonic() - began_s >= 0.3, "three heartbeats at least"


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"pid": "x", "machine": 3}'])
def test_a_lease_that_is_none_of_ours_is_watched_like_any(files, text):
    files.write("lease/000007.json", text)
    files.write("lease/notes.txt", b"of somebody")
    with take(files) as lease:
        assert lease.number == 8


def test_who_was_taken_over_notices_and_writes_no_more(files):
    with take(files) as lease:
        files.write("lease/000002.json", b"{}")
        with pytest.raises(Fenced, match="another run took the results over"):
            lease.check()
        assert lease.lost.wait(30)
    assert not content(files, 1)["released"]


def test_who_was_taken_over_notices_by_itself(files):
    with take(files) as lease:
        files.write("lease/000002.json", b"{}")
        assert lease.lost.wait(30)


def race(url, barrier, won):
    files = open_files(url)
    files.names("")
    barrier.wait(60)
    try:
        lease = Lease.take(files, this_process(), heartbeat_s=0.1, stale_s=0.5)
    except InputError as refused:
        won.put(str(refused))
        return
    won.put(lease.number)
    barrier.wait(60)  # held until all have tried


def test_of_launchers_that_start_together_one_holds_the_results(files):
    left_elsewhere(files, 4, age_s=60.0)
    spawn = multiprocessing.get_context("spawn")
    barrier, won = spawn.Barrier(3), spawn.Queue()
    racers = [spawn.Process(target=race, args=(files.url, barrier, won)) for _ in range(3)]
    for racer in racers:
        racer.start()
    answers = [won.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.kill()
        racer.join()
    assert [answer for answer in answers if isinstance(answer, int)] == [5]
    assert all("is being written by" in answer for answer in answers if answer != 5)


def until(true):
    deadline_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)

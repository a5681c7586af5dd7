"""CPU time of real processes, as /proc and as psutil show them, and of scripted ones where moments matter."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyaware.energy.process_tree import ProcessState, ProcessTimes, ProcTable, PsutilTable

TABLES = [
    pytest.param(ProcTable, marks=pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")),
    PsutilTable,
]

SPIN = """
import os, sys, time
def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until: pass
    return os.times().user + os.times().system
"""


@contextmanager
def program(code):
    """A process that runs the code; its standard input and output are lines."""
    with subprocess.Popen(
        [sys.executable, "-c", SPIN + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def say(process, line=""):
    process.stdin.write(line + "\n")
    return process.stdout.readline()


@pytest.mark.parametrize("table", TABLES)
def test_a_process_counts_what_it_computes_and_a_sleeper_nothing(table):
    times = ProcessTimes(table())
    with program("print(); sys.stdin.readline(); print(spin(0.4)); sys.stdin.readline()") as process:
        process.stdout.readline()
        before_s = times.cpu_time_s([process.pid])
        time.sleep(0.2)
        assert times.cpu_time_s([process.pid]) - before_s <= 0.02
        total_s = float(say(process))
        assert times.cpu_time_s([process.pid]) == pytest.approx(total_s, abs=0.03)
        assert times.cpu_time_s([process.pid]) - before_s >= 0.37


CHILD_AFTER_CHILD = """
print(); sys.stdin.readline()
for _ in range(3):
    if (child := os.fork()) == 0:
        spin(0.15)
        os._exit(0)
    os.waitpid(child, 0)
print(); sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil may not tell")
@pytest.mark.parametrize("table", TABLES)
def test_children_that_were_waited_for_count_though_nobody_saw_them(table):
    times = ProcessTimes(table())
    with program(CHILD_AFTER_CHILD) as process:
        process.stdout.readline()
        before_s = times.cpu_time_s([process.pid])
        say(process)
        assert times.cpu_time_s([process.pid]) - before_s == pytest.approx(0.45, abs=0.1)


ORPHAN = """
if (middle := os.fork()) == 0:
    if os.fork() == 0:
        print(); sys.stdin.readline()  # known by now
        os.kill(os.getppid(), 9)
        spin(0.3)
        print(); sys.stdin.readline()
        os._exit(0)
    time.sleep(60)
os.waitpid(middle, 0)
time.sleep(60)
"""


@pytest.mark.parametrize("table", TABLES)
def test_a_descendant_is_found_by_refresh_and_stays_one_when_its_parent_ends(table):
    times = ProcessTimes(table())
    with program("sys.stdin.readline()\n" + ORPHAN) as process:
        before_s = times.cpu_time_s([process.pid])
        say(process)
        times.refresh()
        say(process)
        assert times.cpu_time_s([process.pid]) - before_s >= 0.28
        process.stdin.write("\n")


@pytest.mark.parametrize("table", TABLES)
def test_a_process_that_is_gone_counts_what_was_last_seen_and_then_is_forgotten(table):
    times = ProcessTimes(table())
    with program("print(spin(0.3)); sys.stdin.readline()") as process:
        process.stdout.readline()
        seen_s = times.cpu_time_s([process.pid])
    assert seen_s >= 0.28
    for _ in range(3):
        assert times.cpu_time_s([process.pid]) == seen_s
        times.refresh()
    times.refresh()
    assert times.cpu_time_s([process.pid]) == 0


def test_a_process_that_never_was_has_used_nothing():
    assert ProcessTimes().cpu_time_s([2**22 + 1]) == 0


def test_a_process_is_not_counted_twice():
    times = ProcessTimes()
    with program("child = os.fork()\nif child == 0: spin(0.3); print(os.getpid())\nsys.stdin.readline()") as process:
        child = int(process.stdout.readline())
        both_s = times.cpu_time_s([process.pid, child, child])
        assert both_s == pytest.approx(times.cpu_time_s([process.pid]), abs=0.02)


@pytest.mark.parametrize("table", TABLES)
def test_the_machine_is_as_busy_as_its_processes_at_least(table):
    """Bounds are wide: others compute here too, and CPUs are at most all busy."""
    times = ProcessTimes(table())
    start_s, before_s = time.monotonic(), times.machine_busy_s()
    with program("print(spin(0.5))") as process:
        process.stdout.readline()
    spent_s, elapsed_s = times.machine_busy_s() - before_s, time.monotonic() - start_s
    assert 0.4 <= spent_s <= elapsed_s * os.cpu_count() + 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")
def test_both_tables_call_the_same_time_busy():
    before_s = PsutilTable().machine_busy_s()
    busy_s = ProcTable().machine_busy_s()
    assert before_s - 0.1 <= busy_s <= PsutilTable().machine_busy_s() + 0.1


@dataclass
class Scripted:
    """Processes whose lives the test writes."""

    living: dict[int, ProcessState] = field(default_factory=dict)

    def pids(self):
        return list(self.living)

    def state(self, pid):
        return self.living.get(pid)

    def machine_busy_s(self):
        return 0.0

    def born(self, pid, parent, started=0.0):
        self.living[pid] = ProcessState(parent, started, 0.0, 0.0)

    def works(self, pid, seconds):
        old = self.living[pid]
        self.living[pid] = ProcessState(old.parent, old.started, old.own_s + seconds, old.children_s)

    def ends(self, pid, *, waited):
        gone = self.living.pop(pid)
        for child, state in self.living.items():
            if state.parent == pid:
                self.living[child] = ProcessState(1, state.started, state.own_s, state.children_s)
        if waited and gone.parent in self.living:
            heir = self.living[gone.parent]
            self.living[gone.parent] = ProcessState(
                heir.parent, heir.started, heir.own_s, heir.children_s + gone.total_s
            )


def test_a_waited_child_is_counted_once_and_an_unwaited_one_is_kept():
    table = Scripted()
    times = ProcessTimes(table)
    for pid, parent in {10: 1, 11: 10, 12: 10, 13: 12}.items():
        table.born(pid, parent)
    assert times.cpu_time_s([10]) == 0
    for pid, seconds in {10: 1, 11: 2, 12: 4, 13: 8}.items():
        table.works(pid, seconds)
    assert times.cpu_time_s([10]) == 15
    table.ends(11, waited=True)
    assert times.cpu_time_s([10]) == 15
    table.ends(12, waited=True)  # 13 is adopted by init
    table.works(13, 16)
    assert times.cpu_time_s([10]) == 31
    table.ends(13, waited=False)
    assert times.cpu_time_s([10]) == 31
    table.works(10, 1)
    assert times.cpu_time_s([10]) == 32, "what is used from now on is not hidden by what was lost"


def test_a_child_and_grandchild_that_end_together_are_counted_once():
    table = Scripted()
    times = ProcessTimes(table)
    for pid, parent in {10: 1, 11: 10, 12: 11}.items():
        table.born(pid, parent)
        table.works(pid, 2)
    assert times.cpu_time_s([10]) == 6
    table.works(12, 3)
    table.ends(12, waited=True)
    table.ends(11, waited=True)
    assert times.cpu_time_s([10]) == 9


def test_another_process_under_an_id_that_was_used_before_is_not_taken_for_it():
    table = Scripted()
    times = ProcessTimes(table)
    table.born(10, 1)
    table.born(11, 10)
    table.works(10, 5)
    table.works(11, 5)
    assert times.cpu_time_s([10]) == 10
    for pid in (11, 10):
        table.ends(pid, waited=False)
        table.born(pid, 1, started=99.0)
        table.works(pid, 1000)
    table.born(12, 10, started=99.0)
    table.works(12, 1000)
    times.refresh()
    assert times.cpu_time_s([10]) == 10

    times.refresh()
    times.refresh()  # nobody asked for the old one in between
    assert times.cpu_time_s([10]) == 2000, "the new one and its child"


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_cpu_time_never_falls_and_is_never_more_than_was_used(data):
    table = Scripted()
    times = ProcessTimes(table)
    table.born(10, 1)
    used_s, last_s, pid = 0.0, times.cpu_time_s([10]), 10
    for _ in range(data.draw(st.integers(1, 40))):
        event = data.draw(st.sampled_from(["born", "works", "ends", "refresh", "look"]))
        chosen = data.draw(st.sampled_from(sorted(table.living)))
        if event == "born":
            pid += 1
            table.born(pid, chosen)
        elif event == "works":
            seconds = data.draw(st.integers(0, 5))
            table.works(chosen, seconds)
            used_s += seconds
        elif event == "ends" and chosen != 10:
            table.ends(chosen, waited=data.draw(st.booleans()))
        elif event == "refresh":
            times.refresh()
        now_s = times.cpu_time_s([10])
        assert last_s <= now_s <= used_s
        last_s = now_s

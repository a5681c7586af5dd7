"""Asking every node, with real Ray on this machine; `tests/end_to_end/test_preflight.py` asks three."""

import os
import sys
import time

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from cluster.connect import join
from cluster.members import names_of
from cluster.survey import Clock, NodeReport, clock_from, survey


@pytest.fixture(scope="module")
def connected():
    with join():
        yield


def pid_of(name):
    return {"name": name, "pid": os.getpid()}


def stay_away(name):
    while True:
        time.sleep(1)


def fail(name):
    raise ValueError(f"{name} has no idea\nof anything")


def die(name):
    os._exit(1)


def test_a_node_answers_from_a_process_of_its_own(connected):
    (said,) = survey(pid_of, [__file__])
    assert said.silent is None
    assert said.node.node_id == ray.nodes()[0]["NodeID"]
    assert (said.node.cpus, said.node.address) == (ray.nodes()[0]["Resources"]["CPU"], "127.0.0.1")
    assert said.node.memory_bytes > 2**30
    assert said.python == sys.executable
    assert said.niceness == os.nice(0), "that of this process, and no more"
    assert said.sizes == {__file__: os.path.getsize(__file__)}  # noqa: PTH202
    assert said.found["name"] == said.node.name
    assert said.found["pid"] != os.getpid()
    assert "127.0.0.1" in said.interfaces[said.interface]


def test_it_is_asked_however_busy_it_is(connected):
    holder = ray.remote(num_cpus=ray.cluster_resources()["CPU"])(stay_away).remote("busy")
    try:
        while ray.available_resources().get("CPU"):
            time.sleep(0.1)
        (said,) = survey(pid_of)
        assert said.silent is None
    finally:
        ray.cancel(holder, force=True)


def test_its_clock_is_this_machines(connected):
    (said,) = survey(pid_of)
    assert said.clock.differs_s == 0
    assert said.clock.error_s > 0


def test_this_process_alone_needs_no_other(connected):
    (said,) = survey(pid_of, here=True)
    assert said.found["pid"] == os.getpid()
    assert said.node.node_id == ray.nodes()[0]["NodeID"]


@pytest.mark.parametrize(
    ("probe", "why"),
    [(stay_away, "no answer in 2 s"), (fail, "ValueError: "), (die, "WorkerCrashedError: ")],
)
def test_who_does_not_answer_is_silent_and_why(connected, probe, why):
    (said,) = survey(probe, answer_s=2 if probe is stay_away else 60)
    assert said.silent.startswith(why)
    assert len(said.silent.splitlines()) == 1
    assert said.node.node_id == ray.nodes()[0]["NodeID"]
    assert said.clock is None


def test_hosts_of_one_name_are_told_apart_by_their_addresses():
    nodes = [
        {"NodeID": node, "NodeManagerHostname": host, "NodeManagerAddress": address}
        for node, host, address in [("1", "gpu", "10.0.0.1"), ("2", "gpu", "10.0.0.2"), ("3", "head", "10.0.0.3")]
    ]
    assert names_of(nodes) == {"1": "gpu-10.0.0.1", "2": "gpu-10.0.0.2", "3": "head"}


@given(ahead_s=st.floats(-1e4, 1e4), there_s=st.floats(0, 60), back_s=st.floats(0, 60))
def test_a_slow_answer_is_never_taken_for_a_wrong_clock(ahead_s, there_s, back_s):
    clock = clock_from(100.0, 100.0 + there_s + ahead_s, 100.0 + there_s + back_s)
    assert abs(clock.ahead_s - ahead_s) <= clock.error_s + 1e-6
    assert clock.differs_s <= abs(ahead_s) + 1e-6


def test_a_quick_answer_tells_a_wrong_clock():
    assert Clock(-95.0, 0.5).differs_s == 94.5
    assert Clock(0.2, 0.5).differs_s == 0


def test_an_interface_is_that_of_the_nodes_own_address(connected):
    (said,) = survey(pid_of, here=True)
    elsewhere = {"eth0": ["192.0.2.7"], "lo": ["::1"]}
    assert NodeReport(said.node, interfaces=elsewhere).interface is None
    assert NodeReport(said.node, interfaces=elsewhere | {"ib0": ["127.0.0.1"]}).interface == "ib0"

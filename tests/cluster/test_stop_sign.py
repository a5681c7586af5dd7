"""A sign that is raised for some workers and not for others, seen from processes of their own."""

import tempfile
import time

import pytest
import ray

from cluster.connect import join
from cluster.stop_sign import StopSign


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # a socket's path is short
    with join("local"):
        yield


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self, sign):
        self._sign = sign

    def sees_it(self):
        return self._sign()


def seen(worker):
    """Whether it is seen within a while: raising it takes a moment to get about."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if ray.get(worker.sees_it.remote()):
            return True
        time.sleep(0.05)
    return False


def test_one_group_is_stopped_and_the_others_are_not_until_all_are():
    sign = StopSign("finetune", "inference")
    tuning, inference = (Worker.remote(sign.of(group)) for group in ("finetune", "inference"))
    assert not ray.get([tuning.sees_it.remote(), inference.sees_it.remote()])[0]
    sign.stop("finetune")
    assert seen(tuning)
    assert not ray.get(inference.sees_it.remote())
    late = Worker.remote(sign.of("finetune"))
    assert seen(late), "a worker that comes later sees it too"
    sign.stop()
    assert seen(inference)

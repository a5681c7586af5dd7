"""Gangs of real Ray actors with real gloo groups. What runs in a worker is a function of this module."""

import os
import signal
import tempfile
import time

import psutil
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.connect import LOOPBACK, join
from cluster.gang import Gang, Rank, WorkerResources

FAST_S = 15.0  # a collective that lost a rank would hold its other ranks for half an hour
CPU = WorkerResources(cpus=1, gpus=0, device="cpu")

imported: list[str] = []
leaked: list[bytearray] = []


@pytest.fixture(scope="module", autouse=True)
def machine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", tempfile.gettempdir())  # where Ray itself goes: a socket's path is short
        environment.setenv("TMPDIR", str(folder))  # where its workers go
        with join("local"):
            yield folder
    assert not ray.is_initialized()


class Groups:
    """Gangs in placement groups of their own, one after the other: there may be no more than two cores."""

    def __init__(self):
        self._made = []

    def form(self, size=2, resources=CPU, warm_up=None):
        group = placement_group([resources.bundle] * size, strategy="PACK")
        self._made.append((None, group))
        gang = Gang(group, resources, [1] * size, warm_up or note_import)
        self._made[-1] = (gang, group)
        return gang

    def close(self):
        for gang, group in self._made:
            if gang:
                gang.dismiss()
            remove_placement_group(group)


@pytest.fixture
def gangs():
    groups = Groups()
    yield groups
    groups.close()


def note_import():
    imported.append("warm")


def gone(pids, within_s=FAST_S):
    """Whether all these processes end in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def look_around(rank):
    import torch

    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "DS_ACCELERATOR", "CUDA_DEVICE_ORDER"]
    together = torch.tensor([float(rank.rank + 1)])
    torch.distributed.all_reduce(together)
    return {
        "given": rank,
        "environment": {name: os.environ[name] for name in names},
        "torch": (torch.distributed.get_rank(), torch.distributed.get_world_size(), torch.distributed.get_backend()),
        "sum": together.item(),
        "pid": os.getpid(),
        "listens": {link.laddr.ip for link in psutil.Process().net_connections() if link.status == "LISTEN"},
        "threads": (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]),
        "imported": list(imported),
    }


def use_and_release():
    """What a well-behaved stage does: takes 400 MB, returns nothing of it."""
    import torch

    return float(torch.ones(100 * 2**20, dtype=torch.float32).sum())


def leak():
    leaked.append(bytearray(400 * 2**20))  # in a global of the worker's process


def test_ranks_know_each_other_and_memory_is_watched(gangs, machine):
    gang = gangs.form()
    left_before = list(machine.iterdir())
    workers = gang.run(look_around, lambda rank: (rank,))

    for number, worker in enumerate(workers):
        assert worker["given"] == Rank(number, 2, number, 2, workers[0]["given"].node, "cpu") == gang.ranks[number]
        assert worker["environment"] == {
            "RANK": str(number),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(number),
            "LOCAL_SIZE": "2",
            "DS_ACCELERATOR": "cpu",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }
        assert worker["torch"] == (number, 2, "gloo")
        assert worker["sum"] == 1 + 2
        assert worker["threads"] == (1, "1")
        assert worker["listens"] <= {LOOPBACK, f"::ffff:{LOOPBACK}", "::1"}, "for this machine alone"
        assert worker["imported"] == ["warm"], "once, before the first stage"
    assert [rank.leads_node for rank in gang.ranks] == [True, False]
    assert [worker["pid"] for worker in workers] == gang.pids
    assert len({*gang.pids, os.getpid()}) == 3, "each worker is a process of its own"
    assert gang.gpu_ids == [(), ()]
    assert gang.on_node(gang.node_ids[0], ["a", "b"]) == ["a", "b"]
    assert gang.on_node("elsewhere", ["a", "b"]) == []

    assert gang.run(use_and_release, lambda rank: ()) == [100 * 2**20] * 2
    assert gang.is_clean()
    again = gang.run(look_around, lambda rank: (rank,))
    assert [worker["pid"] for worker in again] == gang.pids, "still warm"
    gang.run(leak_in_rank_1, lambda rank: (rank,))
    assert not gang.is_clean(), "one worker that kept 400 MB is enough"
    pids = gang.pids
    gang.dismiss()
    assert gone(pids)
    assert left_before, "else the next line shows nothing"
    assert list(machine.iterdir()) == [], "what a gang met at goes with it"


def leak_in_rank_1(rank):
    if rank.rank == 1:
        leak()


def test_a_worker_has_as_many_threads_as_cores(gangs):
    cores = int(ray.cluster_resources()["CPU"])
    gang = gangs.form(size=1, resources=WorkerResources(cpus=cores, gpus=0, device="cpu"))
    (worker,) = gang.run(look_around, lambda rank: (rank,))

    assert cores > 1, "else nothing is shown"
    assert worker["threads"] == (cores, str(cores))
    assert worker["torch"] == (0, 1, "gloo")


def fail_while_others_wait(rank):
    import torch

    if rank.rank == 1:
        raise ValueError("what went wrong in rank 1")
    torch.distributed.barrier()


def die_while_others_wait(rank):
    import torch

    if rank.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (fail_while_others_wait, ValueError, "what went wrong in rank 1"),
        # Not the broken connection that rank 0 may report before Ray notices the death.
        (die_while_others_wait, ray.exceptions.RayActorError, "died"),
    ],
)
def test_the_first_failure_surfaces_at_once_and_dismissing_leaves_no_process(gangs, function, error, says):
    gang = gangs.form()
    began = time.monotonic()
    with pytest.raises(error, match=says):
        gang.run(function, lambda rank: (rank,))
    took_s = time.monotonic() - began

    assert took_s < FAST_S
    pids = gang.pids
    gang.dismiss()
    assert gone(pids)
    assert len(pids) == 2


def refuse_to_start():
    raise RuntimeError(f"no warmth in {os.getpid()}")


def test_a_gang_that_cannot_form_raises_and_frees_its_bundles(gangs):
    with pytest.raises(RuntimeError, match="no warmth in") as raised:
        gangs.form(size=1, warm_up=refuse_to_start)
    pid = int(str(raised.value.cause).rsplit(maxsplit=1)[-1])
    assert gone([pid])

"""Meters on nodes, with real Ray and real gangs; GPUs are those of the NVML stand-in, packages of the powercap one."""

import io
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from uuid import uuid4

import psutil
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from rich.console import Console

from cluster.connect import join
from cluster.gang import Gang, WorkerResources
from energyaware.energy.base import JOULES_PER_KWH, MeterSettings
from energyaware.energy.service import NodeService, Post
from energyaware.energy.windows import GangMeter
from energyaware.errors import InputError, StageError, StorageError
from energyaware.store import Store
from sweep import meter_actor, progress, stage_actor
from sweep.node_meter import NodeMeters, StageWindows, answered, end, end_lost, forget
from sweep.recover import take_over

pytest_plugins = "tests.nvml.plugin"

PUE = 1.2
STEP_S = 0.1
QUICK = MeterSettings(country="DEU", pue=PUE, idle_s=0, heartbeat_s=0.5)


def no_warm_up():
    pass


@contextmanager
def gang_of(resources):
    group = placement_group([resources.bundle], strategy="PACK")
    gang = Gang(group, resources, [1], no_warm_up)
    yield gang
    gang.dismiss()
    remove_placement_group(group)


def begin(gang, meters, stage):
    """As a stage's actor does for its gang. Returns the windows of its leader."""
    node = gang.node_ids[0]
    meter = meters.book.of(node).actor
    about = {"stage_id": stage, "attempt": 1, "started_at": datetime.now(UTC)}
    ray.get(meter.begin.remote(about, gang.pids, gang.gpus_on_node(node), 1.0))
    return StageWindows(meter, (stage, 1))


def compute(meter, seconds):
    end_s = time.monotonic() + seconds
    with meter.window("train", epoch=1):
        while time.monotonic() < end_s:
            sum(range(10_000))
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def wait(meter, seconds):
    with meter.window("train", epoch=1):
        time.sleep(seconds)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def die_in_window(meter, seconds):
    with meter.window("decode"):
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)


def at_once(*runs):
    """Run functions on gangs at the same time; what their first rank returned."""
    with ThreadPoolExecutor(len(runs)) as threads:
        jobs = [
            threads.submit(
                gang.run, function, lambda rank, window=window, seconds=seconds: (GangMeter(window), seconds)
            )
            for gang, window, function, seconds in runs
        ]
        return [job.result()[0] for job in jobs]


def train_rows(rows):
    return {row["component"]: row for row in rows if row["window"] == "train"}


@pytest.fixture(scope="module")
def machine():
    with join("local"):
        yield


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def meters(machine, store):
    meters = NodeMeters(QUICK, store, run=uuid4().hex, sweep="sweep")
    meters.start()
    yield meters
    for meter in meters.all():
        ray.kill(meter.actor)


def test_two_stages_on_one_node_share_its_cpu_by_what_they_computed(meters):
    with gang_of(WorkerResources(1, 0, "cpu")) as busy, gang_of(WorkerResources(1, 0, "cpu")) as idle:
        at_once(
            (busy, begin(busy, meters, "busy"), compute, 2.5),
            (idle, begin(idle, meters, "idle"), wait, 2.5),
        )
        assert meters.node_ids == busy.node_ids, "one meter a node, by node id"
    rows = {stage: train_rows(end(meters.all(), (stage, 1))) for stage in ("busy", "idle")}

    for parts in rows.values():
        assert set(parts) == {"cpu", "dram"}
        for row in parts.values():
            assert row["duration_s"] == pytest.approx(2.5, abs=1.5)
            assert row["energy_j"] >= 0
            assert row["node"] == socket.gethostname()
            assert row["kept"] is True
    assert rows["busy"]["cpu"]["energy_j"] > 5 * rows["idle"]["cpu"]["energy_j"]
    carbon = rows["busy"]["cpu"]["carbon_g"] / rows["busy"]["cpu"]["energy_j"] * JOULES_PER_KWH / PUE
    assert 200 < carbon < 600, "Germany's, at the data centre"


def test_the_joules_of_a_worker_that_died_are_kept_as_lost(meters, store):
    with gang_of(WorkerResources(1, 0, "cpu")) as gang, pytest.raises(ray.exceptions.RayActorError):
        at_once((gang, begin(gang, meters, "dead"), die_in_window, 1.3))
    lost = end_lost(meters.all(), ("dead", 1), store)

    decode = [row for row in lost if row["window"] == "decode"]
    assert {row["component"] for row in decode} == {"cpu", "dram"}
    assert all(row["energy_j"] > 0 and row["duration_s"] >= 1.3 and row["kept"] is False for row in decode)


def test_the_joules_of_an_attempt_survive_its_meter_and_its_successor_meters_the_next(meters, store):
    (meter,) = meters.all()
    windows = StageWindows(meter.actor, ("a", 1))
    about = {"stage_id": "a", "attempt": 1, "started_at": datetime.now(UTC)}
    ray.get(meter.actor.begin.remote(about, [os.getpid()], [], 1.0))
    token = windows.open("train", 1, None)
    time.sleep(1.5)
    ours = psutil.Process().children(recursive=True)
    (victim,) = [process for process in ours if process.name().startswith("ray::NodeMeter")]
    victim.kill()
    victim.wait(30)

    with pytest.raises(StageError, match=r"meter died|started anew"):
        windows.close(token, None)
    with pytest.raises(StageError, match="started anew"):
        end(meters.all(), ("a", 1))
    lost = end_lost(meters.all(), ("a", 1), store)
    saved = {row["component"]: row for row in lost if row["window"] == "train"}
    assert saved["dram"]["energy_j"] > 0
    assert 0.3 < saved["dram"]["duration_s"] < 2.5

    answered(partial(meter.actor.begin.remote, about | {"attempt": 2}, [os.getpid()], [], 1.0))
    next_one = StageWindows(meter.actor, ("a", 2))
    token = next_one.open("train", 1, None)
    next_one.close(token, None)
    assert train_rows(end(meters.all(), ("a", 2)))["dram"]["attempt"] == 2
    forget(meters.all(), ("a", 2))


def test_a_country_that_codecarbon_does_not_know_is_an_input_error_of_the_driver(machine):
    with pytest.raises(InputError, match=r"^energy\.country: ") as refused:
        NodeMeters(MeterSettings(country="XXX"), None, run="run", sweep="sweep").start()
    assert "\n" not in str(refused.value)


def kill(meters):
    """The process of the only meter, once there is one."""
    while not meters.all():
        time.sleep(0.1)
    (meter,) = meters.all()
    os.kill(ray.get(meter.actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)


@contextmanager
def idling(idle_s):
    """Meters that read idle power for so long."""
    meters = NodeMeters(MeterSettings(components=("cpu",), idle_s=idle_s), None, run=uuid4().hex, sweep="sweep")
    yield meters
    meters.finish()
    for meter in meters.all():
        ray.kill(meter.actor)


def until(true, seconds=60):
    end_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def test_a_meter_that_is_lost_before_the_sweep_has_begun_is_an_input_error_of_the_driver(machine):
    with idling(30) as meters, ThreadPoolExecutor(1) as threads:
        killing = threads.submit(kill, meters)
        with pytest.raises(InputError, match=r"^the meter of .+ was lost while it read idle power: Actor") as refused:
            meters.start()
        killing.result()
    assert "\n" not in str(refused.value)


def test_a_node_that_joined_is_of_use_though_its_first_meter_was_lost(machine):
    with idling(2) as meters:
        meters.watch()
        kill(meters)
        until(meters.nodes)
        (meter,) = meters.started()
        assert ray.get(meter.actor.now.remote())["open"] == []


def test_a_node_that_joined_and_has_no_meter_is_told_of_once_and_not_asked(machine, monkeypatch):
    monkeypatch.setattr(progress, "POLL_S", 0.05)
    meters = NodeMeters(MeterSettings(country="XXX"), None, run=uuid4().hex, sweep="sweep")
    meters.watch()
    seen, told = [], io.StringIO()
    with progress.Progress(0, 0, (), meters, None, seen.append, Console(file=told, width=80)):
        until(told.getvalue)
        seen.clear()
        until(lambda: len(seen) > 3)
    line = f"{socket.gethostname()} gets no stage: its meter cannot start: InputError: energy.country: "
    assert told.getvalue().startswith(line)
    assert told.getvalue().count("\n") == 1
    assert (meters.started(), meters.nodes(), seen[-1]) == ([], (), [])
    meters.finish()


def test_whoever_asks_a_meter_that_cannot_start_hears_at_once_why(monkeypatch):
    monkeypatch.setattr(meter_actor, "START_S", 5.0)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(was_current_actor_reconstructed=False))
    meter = meter_actor.NodeMeter.__ray_metadata__.modified_class(
        Post("late", "run", "sweep", None), MeterSettings(country="XXX")
    )
    for ask in (meter.start, meter.now, meter.start):
        with pytest.raises(InputError, match=r"^energy\.country: "):
            ask()


def test_a_meter_that_is_asked_to_start_while_it_starts_is_one(monkeypatch):
    made = []

    def init(service, *_):
        time.sleep(0.5)
        made.append(service)

    monkeypatch.setattr(NodeService, "__init__", init)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(was_current_actor_reconstructed=False))
    meter = meter_actor.NodeMeter.__ray_metadata__.modified_class(Post("new", "run", "sweep", None), MeterSettings())
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: meter.start(), range(2))) == [None, None]
    assert len(made) == 1


def test_a_node_whose_meter_does_not_come_back_is_told_of(machine):
    with idling(30) as meters:
        meters.watch()
        until(meters.all)
        (meter,) = meters.all()
        ray.kill(meter.actor)
        until(meters.refused)
    assert meters.refused() == [f"{socket.gethostname()} gets no stage: its meter died again and again"]


@dataclass(frozen=True)
class Spec:
    kind: str = "inference"


class WithoutStorage(stage_actor.StageTrainable):
    """Whose stage ends when the results can no longer be written."""

    def _warm_gang(self):
        return SimpleNamespace(node_ids=[ray.get_runtime_context().get_node_id()], dismiss=no_warm_up)

    def _run(self, gang, meters, attempt):
        (meter,) = meters
        answered(partial(meter.actor.begin.remote, attempt.about, [os.getpid()], [], 1.0))
        compute(GangMeter(StageWindows(meter.actor, attempt.key)), 1.0)
        raise StorageError("disk full")


@pytest.mark.parametrize("is_back", [False, True])
def test_an_attempt_that_could_not_be_recorded_is_kept_by_its_meters(meters, store, monkeypatch, is_back):
    def refuse(*_, **__):
        raise StorageError("disk full")

    if not is_back:
        monkeypatch.setattr(stage_actor, "record_unfinished", refuse)
    store.create()
    stage = SimpleNamespace(stage_id="a", spec=Spec())
    job = SimpleNamespace(stages={"a": stage}, workers={"inference": 1}, meters=meters.book, store=store)
    trainable = object.__new__(WithoutStorage)
    trainable.setup({"stage_id": "a", "attempt": 1, "micro_batch_size": None}, job)
    said = trainable.step()
    lost = take_over(store, meters.finish())

    assert (said["state"], said["failure"]) == ("interrupted", "storage")
    assert [row["stage_id"] for row in lost] == ([] if is_back else ["a"])
    assert store.attempt_keys() == {("a", 1)}
    assert all(row["energy_j"] > 0 for row in lost)


def two_gangs():
    """Two stages at the same time, each holding a GPU and computing on the CPU."""
    with join("local"):
        found = ray.cluster_resources()["GPU"]
        meters = NodeMeters(MeterSettings(components=("gpu",), idle_s=0), None, run="run", sweep="sweep")
        meters.start()
        (meter,) = meters.all()
        resources = WorkerResources(cpus=1, gpus=1, device="cpu")
        with gang_of(resources) as a, gang_of(resources) as b:
            visible = at_once((a, begin(a, meters, "a"), wait, 2.0), (b, begin(b, meters, "b"), wait, 1.0))
            ids = {"a": a.gpu_ids, "b": b.gpu_ids}
        for stage, gpu in {"by uuid": "GPU-d", "unknown": "MIG-x", "beyond": "7"}.items():
            about = {"stage_id": stage, "attempt": 1, "started_at": datetime.now(UTC)}
            ray.get(meter.actor.begin.remote(about, [os.getpid()], [gpu], 1.0))
            windows = StageWindows(meter.actor, (stage, 1))
            token = windows.open("train", 1, None)
            time.sleep(0.3)
            windows.close(token, None)
        rows = {stage: end(meters.all(), (stage, 1)) for stage in ("a", "b", "by uuid", "unknown", "beyond")}
        nodes = ray.get(meter.actor.finish.remote())["nodes"]
    return {
        "found": found,
        "ids": ids,
        "visible": dict(zip("ab", visible, strict=True)),
        "rows": {
            stage: {
                row["device"]: [row["energy_j"], row["reason"], row["duration_s"]]
                for row in rows[stage]
                if row["window"] == "train"
            }
            for stage in rows
        },
        "nodes": {row["device"]: [row["energy_j"], row["reason"], row["difference"]] for row in nodes},
    }


def test_each_stage_gets_the_joules_of_its_own_gpu_by_uuid_whatever_ray_calls_it(gpus):
    watts = {"GPU-a": 300.0, "GPU-b": 20.0, "GPU-c": 70.0, "GPU-d": 150.0, "GPU-e": 90.0}
    seen = gpus.call(
        two_gangs,
        f"step {STEP_S}",
        *[f"gpu {uuid} {power}" for uuid, power in watts.items()],
        "fail 4 999",
        CUDA_VISIBLE_DEVICES="2,0",  # NVML's numbers, in another order and not all
    )
    rows, uuids = seen["rows"], list(watts)
    held = {stage: uuids[int(gpu)] for stage, [[gpu]] in seen["ids"].items()}

    assert seen["found"] == 2, "Ray found the GPUs that it may use"
    assert sorted(held.values()) == ["GPU-a", "GPU-c"]
    assert seen["visible"] == {stage: ids[0][0] for stage, ids in seen["ids"].items()}, "the worker sees what it holds"
    for stage, uuid in held.items():
        assert list(rows[stage]) == [uuid], "its own GPU and no other"
        energy_j, reason, duration_s = rows[stage][uuid]
        assert reason is None
        assert energy_j == pytest.approx(watts[uuid] * duration_s, abs=watts[uuid] * STEP_S)
    assert rows["a"][held["a"]][2] > 1.9
    assert rows["a"][held["a"]][2] > rows["b"][held["b"]][2] + 0.5 > 1.4

    energy_j, _, duration_s = rows["by uuid"]["GPU-d"]
    assert energy_j == pytest.approx(150 * duration_s, abs=150 * STEP_S)
    assert rows["unknown"]["MIG-x"][:2] == [None, "MIG is on: a GPU's counter does not tell its instances apart"]
    assert rows["beyond"]["7"][:2] == [None, "NVML knows no GPU 7"]
    assert seen["nodes"]["GPU-e"][:2] == [None, "NVML: Unknown Error"]
    for uuid in uuids[:4]:
        assert abs(seen["nodes"][uuid][2]) < 0.005

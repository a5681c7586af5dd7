"""Meters on nodes, with real Ray, real gangs and real CodeCarbon; GPUs are those of the NVML stand-in."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from ray.util.placement_group import placement_group

from cluster.connect import join
from cluster.gang import Gang, WorkerResources
from energyaware.energy.base import JOULES_PER_KWH
from energyaware.energy.windows import GangMeter
from energyaware.errors import InputError
from sweep.config import Energy
from sweep.node_meter import StageWindows, start_meters

pytest_plugins = "tests.nvml.plugin"

PUE = 1.2
STEP_S = 0.1


def no_warm_up():
    pass


def gang_of(resources, size=1):
    group = placement_group([resources.bundle] * size, strategy="PACK")
    return Gang(group, resources, size, no_warm_up)


def windows(gang, meters, stage):
    """As a stage's actor makes them for its gang's leader."""
    node = gang.node_ids[0]
    gpus = tuple(gpu for ids in gang.on_node(node, gang.gpu_ids) for gpu in ids)
    return StageWindows(meters[node], stage, 1, tuple(gang.on_node(node, gang.pids)), gpus)


def collect(meters, stage, *, kept=True):
    (meter,) = meters.values()
    return ray.get(meter.collect.remote(stage, 1, kept=kept))


def compute(meter, seconds):
    end = time.monotonic() + seconds
    with meter.window("train", epoch=1):
        while time.monotonic() < end:
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


@pytest.fixture(scope="module")
def machine():
    with join("local"):
        yield


@pytest.fixture(scope="module")
def meters(machine):
    meters = start_meters(Energy(country="DEU", pue=PUE))
    yield meters
    for meter in meters.values():
        ray.get(meter.shut.remote())
        ray.kill(meter)


def test_two_stages_on_one_node_share_its_cpu_by_what_they_computed(meters):
    busy, idle = gang_of(WorkerResources(1, 0, "cpu")), gang_of(WorkerResources(1, 0, "cpu"))
    at_once(
        (busy, windows(busy, meters, "busy"), compute, 2.5),
        (idle, windows(idle, meters, "idle"), wait, 2.5),
    )
    rows = {stage: {row["component"]: row for row in collect(meters, stage)} for stage in ("busy", "idle")}

    assert list(meters) == busy.node_ids, "one meter a node, by node id"
    for stage, parts in rows.items():
        assert set(parts) == {"cpu", "dram"}
        for row in parts.values():
            assert row["duration_s"] == pytest.approx(2.5, abs=1.5)
            assert row["energy_j"] >= 0
            assert 200 < row["carbon_g"] / row["energy_j"] * JOULES_PER_KWH / PUE < 600, "Germany's, at the data centre"
            assert row.items() >= {
                "stage_id": stage, "attempt": 1, "node": socket.gethostname(), "window": "train", "epoch": 1,
                "device": None, "reason": None, "kept": True,
            }.items()  # fmt: skip
    assert rows["busy"]["cpu"]["energy_j"] > 5 * rows["idle"]["cpu"]["energy_j"]
    assert rows["busy"]["dram"]["energy_j"] > 5 * rows["idle"]["dram"]["energy_j"]
    assert collect(meters, "busy") == [], "collected once"
    idle.dismiss()

    with pytest.raises(ray.exceptions.RayActorError):
        at_once((busy, windows(busy, meters, "dead"), die_in_window, 1.3))
    lost = collect(meters, "dead", kept=False)
    busy.dismiss()

    assert {row["component"] for row in lost} == {"cpu", "dram"}, "the joules of a worker that died are not lost"
    assert all(row["energy_j"] > 0 and row["duration_s"] >= 1.3 and row["kept"] is False for row in lost)
    (meter,) = meters.values()
    assert ray.get(meter.now.remote())["open"] == []
    resting = {row["component"]: row for row in ray.get(meter.collect_idle.remote())}
    assert resting["cpu"].items() >= {"stage_id": None, "window": "idle", "attempt": None}.items()
    assert resting["cpu"]["energy_j"] > 0


def test_a_country_that_codecarbon_does_not_know_is_an_input_error_of_the_driver(machine):
    with pytest.raises(InputError, match=r"^energy\.country: ") as refused:
        start_meters(Energy(country="XXX"))
    assert "\n" not in str(refused.value)


def two_gangs():
    """Two stages at the same time, each holding a GPU and computing on the CPU."""
    with join("local"):
        found = ray.cluster_resources()["GPU"]
        meters = start_meters(Energy())
        (meter,) = meters.values()
        resources = WorkerResources(cpus=1, gpus=1, device="cpu")
        gangs = {stage: gang_of(resources) for stage in ("a", "b")}
        visible = at_once(
            (gangs["a"], windows(gangs["a"], meters, "a"), wait, 2.0),
            (gangs["b"], windows(gangs["b"], meters, "b"), wait, 1.0),
        )
        for stage, gpu in {"by uuid": "GPU-d", "unknown": "MIG-x", "beyond": "7"}.items():
            token = ray.get(meter.open.remote(stage, 1, "decode", None, [os.getpid()], [gpu]))
            time.sleep(0.3)
            ray.get(meter.close.remote(token))
        stages = ["a", "b", "by uuid", "unknown", "beyond"]
        rows = {stage: collect(meters, stage) for stage in stages} | {"idle": ray.get(meter.collect_idle.remote())}
        for gang in gangs.values():
            gang.dismiss()
    return {
        "found": found,
        "ids": {stage: gang.gpu_ids for stage, gang in gangs.items()},
        "visible": dict(zip("ab", visible, strict=True)),
        "rows": {
            stage: {
                row["device"]: [row["energy_j"], row["reason"], row["duration_s"], row["measured"]]
                for row in rows[stage]
                if row["component"] == "gpu"
            }
            for stage in rows
        },
    }


def test_each_stage_gets_the_joules_of_its_own_gpu_and_idle_those_that_nobody_held(gpus):
    watts = {"GPU-a": 300.0, "GPU-b": 20.0, "GPU-c": 70.0, "GPU-d": 150.0, "GPU-e": 90.0}
    seen = gpus.call(
        two_gangs,
        f"step {STEP_S}",
        *[f"gpu {uuid} {power}" for uuid, power in watts.items()],
        "fail 4 3",
        CUDA_VISIBLE_DEVICES="2,0",  # NVML's numbers, in another order and not all
    )
    rows, uuids = seen["rows"], list(watts)
    held = {stage: uuids[int(gpu)] for stage, [[gpu]] in seen["ids"].items()}

    assert seen["found"] == 2, "Ray found the GPUs that it may use"
    assert sorted(held.values()) == ["GPU-a", "GPU-c"]
    assert seen["visible"] == {stage: ids[0][0] for stage, ids in seen["ids"].items()}, "the worker sees what it holds"
    for stage, uuid in held.items():
        assert list(rows[stage]) == [uuid], "its own GPU and no other"
        energy_j, reason, duration_s, measured = rows[stage][uuid]
        assert (reason, measured) == (None, True)
        assert energy_j == pytest.approx(watts[uuid] * duration_s, abs=watts[uuid] * 3 * STEP_S)
    assert rows["a"][held["a"]][2] > 1.9
    assert rows["a"][held["a"]][2] > rows["b"][held["b"]][2] + 0.5 > 1.4

    energy_j, _, duration_s, _ = rows["by uuid"]["GPU-d"]
    assert energy_j == pytest.approx(150 * duration_s, abs=150 * 3 * STEP_S)
    assert rows["unknown"] == {"MIG-x": [None, "no source reads this GPU", rows["unknown"]["MIG-x"][2], False]}
    assert rows["beyond"]["7"][:2] == [None, "no source reads this GPU"]

    assert rows["idle"]["GPU-e"][:2] == [None, "NVML: Not Supported"]
    total_s = {
        uuid: sum(parts[uuid][0] for parts in rows.values() if uuid in parts) / watts[uuid] for uuid in uuids[:4]
    }
    # Windows and idle of each GPU add up to the same time: the meter's whole life.
    assert max(total_s.values()) - min(total_s.values()) < 0.001 * max(total_s.values())
    assert total_s["GPU-b"] > 3.9

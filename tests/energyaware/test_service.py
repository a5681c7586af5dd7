"""A node's meter at work on simulated hardware: GPUs of the NVML stand-in, packages of the powercap stand-in."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from energyaware.energy.base import MeterSettings
from energyaware.energy.ledger_file import LedgerPlace, read_ledger
from energyaware.energy.service import NodeService, Post
from energyaware.files_local import LocalFiles
from energyaware.rows import SCHEMA_VERSION
from tests.nvml.clock import start_s
from tests.nvml.scenario import Constant, Gpu, Ramp, Scenario, Sine, Square
from tests.powercap import Powercap, drawn_j, intel

pytest_plugins = "tests.nvml.plugin"

ROOT = Path(__file__).parents[2]
STEP_S = 0.1
FOUR = Scenario(
    (
        Gpu("GPU-steady", Constant(310.0)),
        Gpu("GPU-bursts", Square(0.73, 0.4, 650.0, 90.0)),
        Gpu("GPU-sine", Sine(3.1, 500.0, 150.0)),
        Gpu("GPU-ramp", Ramp(15.0, 70.0, 600.0)),
    ),
    (f"step {STEP_S}", "phase 0.03 1", "phase 0.07 2"),
)
ALONE = MeterSettings(components=("gpu",), idle_s=0)


def about(stage):
    return {"stage_id": stage, "attempt": 1, "kind": "inference", "started_at": datetime.now(UTC)}


def place(path):
    return LedgerPlace(LocalFiles(path.parents[1]), f"{path.parent.name}/{path.name}")


def meter(settings=ALONE, ledger=None):
    return NodeService(Post("node", "run", "sweep", ledger and place(ledger)), settings)


def rows_of(service, stage, *, kept=True):
    return [row | {"started_at": None} for row in service.end((stage, 1), kept=kept)]


def windows_at_once(plan):
    """Windows as `plan` says, {when: [(stage, open or close)]}.

    Returns rows by stage, true joules between the ends of its windows, and the node's rows.
    """
    service = meter()
    since_s, edges, tokens = time.monotonic(), {}, {}
    for index, gpu in enumerate(FOUR.gpus):
        service.begin(about(gpu.uuid), [os.getpid()], [str(index)], 1)
    for at_s in sorted(plan):
        time.sleep(max(0.0, since_s + at_s - time.monotonic()))
        for stage, what in plan[at_s]:
            edges.setdefault(stage, []).append(time.monotonic())
            if what == "open":
                tokens[stage] = service.open((stage, 1), "decode", None, len(edges[stage]))
            else:
                service.close(tokens[stage], 8)
    rows = {gpu.uuid: rows_of(service, gpu.uuid) for gpu in FOUR.gpus}
    truth = {
        gpu.uuid: [FOUR.energy_j(index, *edge, start_s()) for edge in pairwise(edges[gpu.uuid])]
        for index, gpu in enumerate(FOUR.gpus)
    }
    nodes = [row | {"started_at": None} for row in service.finish()["nodes"]]
    return rows, truth, nodes


def long_windows():
    uuids = [gpu.uuid for gpu in FOUR.gpus]
    plan = {0.5 + 0.21 * n: [(uuid, "open")] for n, uuid in enumerate(uuids)}
    return windows_at_once(plan | {5.8 + 0.13 * n: [(uuid, "close")] for n, uuid in enumerate(uuids)})


def test_four_stages_at_once_each_get_their_own_waveform_to_one_percent_and_the_node_adds_up(gpus):
    rows, truth, nodes = gpus.call(long_windows, *FOUR.lines())

    for uuid, (true_j, *_) in truth.items():
        (row,) = [row for row in rows[uuid] if row["window"] == "decode"]
        assert row["duration_s"] >= 5
        assert row["energy_j"] == pytest.approx(true_j, rel=0.01), uuid
        assert row["device"] == uuid
        assert row["marks"] == []
    assert {row["device"] for row in nodes} == set(truth)
    for row in nodes:
        assert row["reason"] is None
        assert abs(row["difference"]) < 0.005
    stages_j = sum(row["energy_j"] for stage in rows.values() for row in stage)
    assert stages_j == pytest.approx(sum(row["stages_j"] for row in nodes))


def short_windows():
    uuids = [gpu.uuid for gpu in FOUR.gpus]
    events = [(uuid, what) for _ in range(3) for what in ("open", "close") for uuid in uuids]
    return windows_at_once({0.2 + 0.17 * n: [event] for n, event in enumerate(events)})


def test_windows_under_a_second_are_within_the_counters_step_and_marked(gpus):
    rows, truth, _ = gpus.call(short_windows, *FOUR.lines())
    highest_w = {"GPU-steady": 310, "GPU-bursts": 650, "GPU-sine": 500, "GPU-ramp": 600}
    for uuid, true_j in truth.items():
        seen = sorted((row for row in rows[uuid] if row["window"] == "decode"), key=lambda row: row["repeat"])
        assert len(seen) == 3
        for row, window_j in zip(seen, true_j[::2], strict=True):
            assert row["energy_j"] == pytest.approx(window_j, abs=STEP_S * highest_w[uuid])
            assert row["marks"] == ["short"]


def with_host():
    """A window of a stage that computes, on a node with packages; what others and idle time got."""
    service = meter(MeterSettings(idle_s=1.0))
    service.begin(about("a"), [os.getpid()], ["0"], 1)
    token = service.open(("a", 1), "train", 1, None)
    end_s = time.monotonic() + 2
    while time.monotonic() < end_s:
        sum(range(10_000))
    service.close(token, None)
    rows = rows_of(service, "a")
    nodes = [row | {"started_at": None} for row in service.finish()["nodes"]]
    return rows, nodes


def test_cpu_and_dram_are_split_and_the_node_adds_up(gpus, tmp_path):
    powercap = intel(Powercap(tmp_path / "powercap"), sockets=2)
    packages = {"intel-rapl:0": [(0, 60.0)], "intel-rapl:1": [(0, 40.0)]}
    memory = {"intel-rapl:0:1": [(0, 8.0)], "intel-rapl:1:1": [(0, 8.0)]}
    with powercap.drawing(packages | memory):
        rows, nodes = gpus.call(with_host, "gpu GPU-a 300", "gpu GPU-b 70", **powercap.environment)

    sources = {row["component"]: (row["source"], row["measured"]) for row in rows}
    assert sources["cpu"] == ("rapl package", True)
    assert sources["dram"] == ("rapl dram", True)
    for row in nodes:
        assert row["reason"] is None
        assert abs(row["difference"]) < 0.005
        if row["component"] == "cpu":
            assert row["energy_j"] == pytest.approx(drawn_j([(0, 100.0)], row["duration_s"]), rel=0.1)
            assert row["idle_power_w"] == pytest.approx(100, rel=0.1)
    (train,) = [row for row in rows if row["window"] == "train" and row["component"] == "gpu"]
    assert train["energy_j"] == pytest.approx(300 * train["duration_s"], abs=300 * STEP_S)
    assert train["energy_net_j"] == pytest.approx(0, abs=300 * STEP_S), "all of its power is idle power here"


def falling():
    service = meter()
    service.begin(about("a"), [os.getpid()], ["0"], 1)
    service.begin(about("b"), [os.getpid()], ["1"], 1)
    tokens = [service.open((stage, 1), "decode", None, 1) for stage in "ab"]
    time.sleep(3.0)
    for token in tokens:
        service.close(token, 1)
    rows = {stage: rows_of(service, stage) for stage in "ab"}
    return rows, [row | {"started_at": None} for row in service.finish()["nodes"]]


@pytest.mark.parametrize(
    ("event", "reason"),
    [("lost 0 2.5", "GPU is lost"), ("reset 0 2.5", "went backwards"), ("fail 0 999 2.5", "NVML")],
)
def test_what_goes_wrong_with_one_gpu_is_null_for_its_stage_and_nothing_for_the_other(gpus, event, reason):
    rows, nodes = gpus.call(falling, "gpu GPU-a 300", "gpu GPU-b 200", event)

    (bad,) = [row for row in rows["a"] if row["window"] == "decode"]
    assert bad["energy_j"] is None
    assert reason in bad["reason"]
    (good,) = [row for row in rows["b"] if row["window"] == "decode"]
    assert good["energy_j"] == pytest.approx(200 * good["duration_s"], abs=200 * STEP_S)
    by_gpu = {row["device"]: row for row in nodes}
    assert by_gpu["GPU-a"]["energy_j"] is None
    assert abs(by_gpu["GPU-b"]["difference"]) < 0.005


# -- what survives -----------------------------------------------------------------------------------------------------


def killed(ledger):
    """Holds a GPU in a window until somebody kills it."""
    service = meter(MeterSettings(components=("gpu",), idle_s=1.0, heartbeat_s=0.5), Path(ledger))
    service.begin(about("a"), [os.getpid()], ["0"], 1)
    service.open(("a", 1), "train", 1, None)
    print(time.monotonic(), flush=True)
    time.sleep(60)


def test_a_meter_that_is_killed_loses_one_heartbeat_at_most_and_its_successor_keeps_what_it_left(gpus, tmp_path):
    ledger = tmp_path / "ledger" / "run-node.json"
    code = f"from tests.energyaware.test_service import killed; killed({str(ledger)!r})"
    victim = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=gpus.environment("gpu GPU-a 300"), stdout=subprocess.PIPE, text=True
    )
    since_s = float(victim.stdout.readline())
    time.sleep(3)
    lasted_s = time.monotonic() - since_s
    victim.send_signal(signal.SIGKILL)
    victim.communicate()

    left = read_ledger(place(ledger))
    train = [row for row in left["energy"] if row["window"] == "train"]
    assert [row["kept"] for row in train] == [False]
    late_s = lasted_s - train[0]["duration_s"]
    assert late_s < 0.5 + 1.0, "a heartbeat, and a second for a machine under load"
    assert train[0]["energy_j"] == pytest.approx(300 * train[0]["duration_s"], abs=300 * (STEP_S + 0.05))
    assert left["attempts"][0].items() >= {"stage_id": "a", "attempt": 1}.items()

    seen = gpus.call(successor, "gpu GPU-a 300", LEDGER=str(ledger))
    assert seen["refused"] == "the node's meter does not know this attempt: it was started anew"
    assert seen["idle_power_w"] == pytest.approx(300, rel=0.05), "read by the first, who had the node to itself"
    (aside,) = ledger.parent.glob("run-node-*.json")
    assert read_ledger(place(aside)) == left


def successor():
    from energyaware.errors import StageError

    service = meter(MeterSettings(components=("gpu",), idle_s=1.0, heartbeat_s=0.5), Path(os.environ["LEDGER"]))
    try:
        service.open(("a", 1), "evaluate", None, None)
    except StageError as problem:
        refused = str(problem)
    return {"refused": refused, "idle_power_w": service.finish()["nodes"][0]["idle_power_w"]}


def without_disk():
    folder = Path(os.environ["LEDGER"])
    folder.write_text("a file where a folder should be")
    service = meter(MeterSettings(components=("gpu",), idle_s=0, heartbeat_s=0.5), folder / "run-node.json")
    service.begin(about("a"), [os.getpid()], ["0"], 1)
    time.sleep(1.5)
    trouble = service.now()["trouble"]
    folder.unlink()
    deadline_s = time.monotonic() + 20
    while service.now()["trouble"] and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return [trouble, service.now()["trouble"], (folder / "run-node.json").exists(), len(rows_of(service, "a"))]


def joules_saved_before_a_checkpoint():
    ledger = Path(os.environ["LEDGER"])
    service = meter(MeterSettings(components=("gpu",), idle_s=0, heartbeat_s=60), ledger)
    service.begin(about("a"), [os.getpid()], ["0"], 1)
    token = service.open(("a", 1), "train", 1, None, 0)
    time.sleep(1)
    service.close(token, None)
    service.open(("a", 1), "checkpoint", 1, None)
    left = json.loads(ledger.read_text())["energy"]
    return [(row["window"], row["from_step"], row["energy_j"], row["duration_s"]) for row in left]


def test_what_led_to_a_checkpoint_is_saved_before_it_whatever_the_heartbeat(gpus, tmp_path):
    ledger = str(tmp_path / "ledger" / "run-node.json")
    saved = gpus.call(joules_saved_before_a_checkpoint, "gpu GPU-a 300", LEDGER=ledger)
    (train,) = [row for row in saved if row[0] == "train"]
    assert train[1] == 0
    assert train[2] == pytest.approx(300 * train[3], abs=300 * (STEP_S + 0.05))


def idle_power_taken_over():
    watts = json.loads(os.environ["IDLE_W"])
    rows = [
        {"node": "n", "component": "gpu", "device": "GPU-a", "source": "nvml energy counter", "idle_power_w": watts}
        | {"idle_reason": None, "idle_context": False}
    ]
    service = NodeService(Post("n", "r", "s", None, idle_rows=tuple(rows)), MeterSettings(("gpu",), idle_s=0.5))
    (node,) = service.finish()["nodes"]
    return node["idle_power_w"]


def test_idle_power_that_an_earlier_run_read_is_not_read_again_unless_it_is_unknown(gpus):
    assert gpus.call(idle_power_taken_over, "gpu GPU-a 300", IDLE_W="77") == 77.0
    assert gpus.call(idle_power_taken_over, "gpu GPU-a 300", IDLE_W="null") == pytest.approx(300, rel=0.2)


def without_gpus():
    service = meter(MeterSettings(components=("cpu", "dram"), idle_s=0))
    service.begin(about("a"), [os.getpid()], ["1"], os.cpu_count())
    time.sleep(0.2)
    rows = rows_of(service, "a")
    service.finish()
    return rows


def test_gpus_left_out_of_the_components_have_no_rows_where_an_attempt_holds_one(gpus):
    rows = gpus.call(without_gpus, "gpu GPU-a 300", "gpu GPU-b 300")
    assert [(row["component"], row["reason"]) for row in rows] == [("cpu", None), ("dram", None)]


def checkpoints_side_by_side():
    """Four attempts that save their joules before each of many checkpoints, beside quick heartbeats."""
    ledger = Path(os.environ["LEDGER"])
    service = meter(MeterSettings(components=("cpu", "dram"), idle_s=0, heartbeat_s=0.01), ledger)

    def work(stage):
        service.begin(about(stage), [os.getpid()], [], 0.5)
        for _ in range(8):
            service.close(service.open((stage, 1), "checkpoint", 1, None), None)
        return service.end((stage, 1), kept=True)

    with ThreadPoolExecutor() as threads:
        rows = [row for rows in threads.map(work, "abcd") for row in rows]
    return [(row["energy_j"], row["reason"]) for row in [*rows, *service.finish()["energy"]]]


def test_a_meter_that_several_ask_at_once_takes_its_readings_in_the_order_in_which_they_were_made(gpus, tmp_path):
    found = gpus.call(checkpoints_side_by_side, "gpu GPU-a 300", LEDGER=str(tmp_path / "ledger" / "run-node.json"))
    assert len(found) > 4 * 8 * 2
    assert {reason for _, reason in found} == {None}
    assert all(energy_j >= 0 for energy_j, _ in found)


def test_storage_that_goes_away_is_said_and_comes_back(gpus, tmp_path):
    trouble, later, there, rows = gpus.call(without_disk, "gpu GPU-a 300", LEDGER=str(tmp_path / "ledger"))
    assert "the ledger of node cannot be written" in trouble
    assert (later, there, rows) == (None, True, 1)


def test_a_ledger_is_one_json_object_that_is_replaced_whole(tmp_path):
    from energyaware.energy.ledger_file import write_ledger

    path = tmp_path / "ledger" / "run-node.json"
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    content = {"run": "run", "node": "node", "written_at": moment, "attempts": [], "energy": [], "nodes": []}
    write_ledger(place(path), content)
    write_ledger(place(path), content | {"energy": [{"started_at": moment, "energy_j": 1.25}]})

    assert read_ledger(place(path)) == content | {
        "schema_version": SCHEMA_VERSION, "energy": [{"started_at": moment, "energy_j": 1.25}]
    }  # fmt: skip
    assert [file.name for file in path.parent.iterdir()] == ["run-node.json"]
    for foreign in ("[]", '{"run": 1}', json.dumps({"schema_version": 99} | {n: [] for n in content})):
        path.write_text(foreign)
        with pytest.raises(ValueError, match=r"not a ledger|newer than"):
            read_ledger(place(path))

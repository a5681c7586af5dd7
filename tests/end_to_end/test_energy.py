"""Joules of whole sweeps on simulated hardware: four GPUs of the NVML stand-in, packages of the powercap stand-in.

Stages hold a GPU each and compute on the CPU, so that up to four run at once on one node.
"""

import contextlib
import json
import os
import signal
import subprocess
import time

import psutil
import pytest

from tests.end_to_end.command import COMMAND, energyaware, rows
from tests.own_data import COLUMNS, save_tickets
from tests.powercap import Powercap, intel
from tests.tiny import save_gpt2

pytest_plugins = "tests.nvml.plugin"
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

WATTS = {"GPU-a": 300.0, "GPU-b": 210.0, "GPU-c": 120.0, "GPU-d": 70.0}
STEP_S = 0.1
HEARTBEAT_S = 0.5
SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: [fp32, bf16, int8, nf4]
prunings: [none]
finetune: {{method: lora, steps: 6, batch_size: 8, sequence_length: 64, lora: {{rank: 4}}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.5, repeats: 2, test_examples: 8}}
resources: {{workers: 1, cpus_per_worker: 0.5, gpus_per_worker: 1, device: cpu}}
energy: {{country: FRA, price_per_kwh: 0.3, currency: EUR, idle_s: 1, heartbeat_s: {HEARTBEAT_S}}}
"""


@pytest.fixture
def home(tmp_path, gpus):
    """A user's folder on a machine with four GPUs, and the environment in which it has them."""
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    lines = [f"gpu {uuid} {watts}" for uuid, watts in WATTS.items()]
    return tmp_path, gpus.environment(f"step {STEP_S}", *lines)


def answer(*arguments, home, env=None):
    return json.loads(energyaware(*arguments, "--format", "json", cwd=home, env=env).stdout)


def test_four_stages_at_once_are_measured_each_by_its_own_gpu_and_the_node_adds_up(home):
    home, environment = home
    powercap = intel(Powercap(home / "powercap"))
    watts = {"intel-rapl:0": [(0, 90.0)], "intel-rapl:1": [(0, 60.0)], "intel-rapl:0:1": [(0, 9.0)]}
    with powercap.drawing(watts | {"intel-rapl:1:1": [(0, 9.0)]}):
        energyaware("run", "mine.yaml", cwd=home, env=environment | powercap.environment)
    results = home / "results" / "mine"
    energy, stages = rows(results, "energy"), rows(results, "stages")

    assert len(stages) == 8
    assert {row["energy_kind"] for row in stages} == {"measured"}
    assert {row["currency"] for row in stages} == {"EUR"}
    assert all(row["cost"] > 0 for row in stages)
    own = [row for row in energy if row["stage_id"] and row["component"] == "gpu"]
    assert {row["device"] for row in own} == set(WATTS), "four stages ran at once"
    by_stage = {
        stage: {row["device"] for row in own if row["stage_id"] == stage} for stage in {r["stage_id"] for r in own}
    }
    assert {len(devices) for devices in by_stage.values()} == {1}, "each held one"
    for row in own:
        expected_j = WATTS[row["device"]] * row["duration_s"]
        assert row["energy_j"] == pytest.approx(expected_j, abs=WATTS[row["device"]] * STEP_S)
    repeated = [row for row in own if row["window"] in {"prefill", "decode"}]
    assert {row["repeat"] for row in repeated} == {1, 2}
    assert all(row["requests"] > 0 and row["duration_s"] >= 0.5 for row in repeated)

    nodes = rows(results, "nodes")
    assert {(row["component"], row["device"]) for row in nodes} == {
        ("cpu", None), ("dram", None), *(("gpu", uuid) for uuid in WATTS)
    }  # fmt: skip
    for row in nodes:
        assert abs(row["difference"]) < 0.005
        assert row["idle_power_w"] > 0
    # Idle power that was read while something else ran on the machine says so, and nothing is net of it.
    busy = [row["idle_reason"] for row in nodes if row["idle_reason"]]
    assert all("busy while its idle power was read" in reason for reason in busy)
    if busy:
        assert {row["energy_net_j"] for row in stages} == {None}
    else:
        assert all(row["energy_net_j"] < row["energy_j"] for row in stages)
    status = energyaware("status", results, cwd=home).stdout
    assert "(difference 0.00 %)" in status
    found = answer("rank", results, home=home)
    assert {row["energy_kind"] for row in found["rows"]} == {"measured"}
    net = energyaware("rank", results, "--energy", "net", "--format", "json", cwd=home)
    assert bool(json.loads(net.stdout)["rows"]) is not bool(busy)


def start(home, environment):
    return subprocess.Popen(
        [COMMAND, "run", "mine.yaml"],
        cwd=home,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(what, timeout_s=200):
    deadline_s = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.05)
    return found


def training(results, at_least_s):
    """GPU rows of train windows in the ledgers, once they are so long in all."""

    def look():
        ledgers = [json.loads(path.read_text()) for path in results.glob("ledger/*.json")]
        rows = [row for ledger in ledgers for row in ledger["energy"]]
        found = [row for row in rows if row["window"] == "train" and row["component"] == "gpu"]
        return found if sum(row["duration_s"] for row in found) > at_least_s else None

    return look


@pytest.mark.parametrize("everything", [False, True], ids=["driver", "driver and all that it started"])
def test_a_killed_run_loses_a_heartbeat_of_joules_and_the_next_run_goes_on(home, everything):
    home, environment = home
    results = home / "results" / "mine"
    (home / "mine.yaml").write_text(SWEEP.replace("[fp32, bf16, int8, nf4]", "bf16").replace("steps: 6", "steps: 4000"))
    with start(home, environment) as process:
        wait_for(training(results, 2.0))
        family = psutil.Process(process.pid).children(recursive=True)
        titles = {child.pid: child.name() for child in family}
        if everything:  # as when a machine loses power
            os.killpg(process.pid, signal.SIGKILL)
            for child in family:
                child.kill()
        else:
            process.kill()
        process.communicate()
    at_work = [child for child in family if titles[child.pid].startswith(("ray::NodeMeter", "ray::Worker", "ray::Res"))]
    _, alive = psutil.wait_procs(at_work, timeout=60)
    assert at_work
    assert not alive, "nobody works, and nobody meters it"
    for child in family:  # agents of Ray's own take minutes to notice
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()

    left = training(results, 2.0)()
    for row in left:
        expected_j = WATTS[row["device"]] * row["duration_s"]
        assert row["energy_j"] == pytest.approx(expected_j, abs=2 * STEP_S * WATTS[row["device"]])
    time.sleep(10)  # a run whose last heartbeat is older is taken for dead
    before = answer("status", results, home=home)
    assert before["counts"]["finetune"]["interrupted"] == 1
    assert before["lost_energy_j"] >= sum(row["energy_j"] for row in left)

    (home / "mine.yaml").write_text((home / "mine.yaml").read_text().replace("steps: 4000", "steps: 6"))
    energyaware("run", "mine.yaml", cwd=home, env=environment)
    lost = [row for row in rows(results, "attempts") if not row["kept"]]
    assert [(row["state"], row["kind"]) for row in lost] == [("interrupted", "finetune")]
    assert lost[0]["reason"].startswith("the run ended without a word; last heartbeat ")
    assert list(results.glob("ledger/*.json")) == []
    after = answer("status", results, home=home)
    assert after["lost_energy_j"] == pytest.approx(before["lost_energy_j"])
    assert len(rows(results, "stages")) == 2


def test_measured_and_estimated_energy_are_not_ranked_against_each_other_unless_told(home):
    """The second run of the sweep counts GPUs alone, which are measured; the first had an estimated CPU beside them."""
    home, environment = home
    results = home / "results" / "mine"
    (home / "mine.yaml").write_text(SWEEP.replace("[fp32, bf16, int8, nf4]", "[fp32]"))
    energyaware("run", "mine.yaml", cwd=home, env=environment)
    (home / "mine.yaml").write_text(
        SWEEP.replace("[fp32, bf16, int8, nf4]", "[fp32, bf16]").replace("energy: {", "energy: {components: [gpu], ")
    )
    done = energyaware("run", "mine.yaml", cwd=home, env=environment)

    assert {row["energy_kind"] for row in rows(results, "stages")} == {"mixed", "measured"}
    assert "--allow-mixed" in done.stderr
    refused = energyaware("rank", results, cwd=home, check=2)
    assert refused.stderr.count("\n") == 1
    assert "--allow-mixed" in refused.stderr
    assert len(answer("rank", results, "--allow-mixed", home=home)["rows"]) == 2


def test_a_component_that_cannot_be_read_is_refused_before_anything_is_spent(home):
    """No RAPL here, and CodeCarbon, which would estimate instead, does not start: its installation is broken."""
    home, environment = home
    (home / "broken").mkdir()
    (home / "broken" / "codecarbon.py").write_text("raise ImportError('this installation is broken')\n")
    broken = environment | {"PYTHONPATH": str(home / "broken"), "ENERGYAWARE_POWERCAP": str(home / "none")}
    (home / "mine.yaml").write_text(SWEEP.replace("country: FRA, ", ""))
    done = energyaware("run", "mine.yaml", cwd=home, env=broken, check=2)

    assert "mine.yaml: energy.components: cpu cannot be read on" in done.stderr.splitlines()[-1]
    assert rows(home / "results" / "mine", "attempts") == []

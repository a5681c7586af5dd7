"""Trials over one and two of three hosts with four simulated GPUs each; one host joins later and one dies midway."""

import json
import time
from collections import defaultdict

import pytest

from tests.end_to_end.command import COMMAND, rows
from tests.hosts import Cluster, Hosts, need_hosts
from tests.nvml.scenario import Constant, Gpu, Ramp, Scenario, Sine, Square
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytest_plugins = "tests.nvml.plugin"
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

STEP_S = 0.1
SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
seeds: [0, 1, 2]
finetune: {{method: lora, steps: 300, batch_size: 8, sequence_length: 64, lora: {{rank: 4}}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.5, repeats: 1, test_examples: 8}}
resources:
  {{workers: 2, inference_workers: 1, placement: spread, cpus_per_worker: 1, gpus_per_worker: 1, device: cpu}}
energy: {{components: [gpu], idle_s: 1, heartbeat_s: 0.5}}
"""


A100 = "NVIDIA A100-SXM4-40GB"


def gpus_of(host, waveform, kind="NVIDIA H200"):
    names = (f"name {index} {kind}" for index in range(4))
    return Scenario(
        tuple(Gpu(f"GPU-{host}-{index}", waveform(index)) for index in range(4)), (f"step {STEP_S}", *names)
    )


SCENARIOS = {
    "host0": gpus_of("host0", lambda index: Sine(20.0, 130.0 + index, 110.0 + index)),
    "host1": gpus_of("host1", lambda index: Square(4.0, 0.5, 215.0 + index, 185.0 + index)),
    "host2": gpus_of("host2", lambda index: Ramp(600.0, 300.0 + index, 400.0 + index)),
    "host3": gpus_of("host3", lambda index: Constant(70.0 + index)),
    "host4": gpus_of("host4", lambda index: Constant(55.0), A100),
}
POWER_W = {"host0": (110, 134), "host1": (185, 219), "host2": (300, 404), "host3": (70, 74)}


@pytest.fixture(scope="module")
def begin_s():
    return time.monotonic()


@pytest.fixture(scope="module")
def hosts(nvml_library, begin_s, tmp_path_factory):
    need_hosts()
    folder = tmp_path_factory.mktemp("scenarios")
    with Hosts(5) as hosts:
        for host in hosts:
            scenario = folder / host.name
            scenario.write_text("\n".join([f"start {begin_s}", *SCENARIOS[host.name].lines(), ""]))
            host.environment |= {"LD_LIBRARY_PATH": str(nvml_library.parent), "NVML_SCENARIO": str(scenario)}
        yield hosts


@pytest.fixture
def home(tmp_path):
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    return tmp_path


def wait_for(what, process, timeout_s=300):
    deadline_s = time.monotonic() + timeout_s
    while not (found := what()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.2)
    return found


def at_work(results, name):
    """Whether a node's meter has joules of an attempt that has not ended."""
    ended = {path.stem.rpartition("-")[0] for path in results.glob("attempts/*.parquet")}
    ledgers = [json.loads(path.read_text()) for path in results.glob(f"ledger/*-{name}.json")]
    return any(row["stage_id"] and row["stage_id"] not in ended for ledger in ledgers for row in ledger["energy"])


def test_trials_over_one_and_two_nodes_are_measured_on_each_while_a_node_joins_and_one_dies(hosts, home, begin_s):
    cluster = Cluster(hosts, cpus=1)
    results = home / "results"
    try:
        for index in range(3):
            cluster.start(index)
        command = [COMMAND, "run", "mine.yaml", "--address", cluster.address, "--results", results]
        with hosts[0].popen(command, cwd=home) as process:
            wait_for(lambda: list(results.glob("stages/*/*.parquet")), process)
            cluster.start(3)
            victim = wait_for(lambda: [n for n in (1, 2) if at_work(results, f"host{n}")], process)[0]
            cluster.kill_raylet(victim)
            output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, output + errors
    finally:
        cluster.stop()

    stages, energy, nodes = (rows(results, table) for table in ("stages", "energy", "nodes"))
    assert sorted((row["kind"], len(row["nodes"])) for row in stages) == [("finetune", 2)] * 3 + [("inference", 1)] * 3
    assert {row["workers"] for row in stages if row["kind"] == "inference"} == {1}
    assert {row["gpu_kind"] for row in stages} == {"NVIDIA H200"}
    lost = [row for row in rows(results, "attempts") if row["state"] == "interrupted"]
    assert {row["reason"] for row in lost} == {f"host{victim} was lost"}
    assert "host3" in {name for row in stages for name in row["nodes"]}, "the node that joined was used"

    by_stage = defaultdict(set)
    for row in energy:
        if row["stage_id"]:
            by_stage[row["stage_id"], row["attempt"]].add(row["node"])
            low_w, high_w = POWER_W[row["node"]]
            assert row["device"].startswith(f"GPU-{row['node']}-")
            if row["energy_j"] is not None:
                slack_j = high_w * 2 * STEP_S
                assert low_w * row["duration_s"] - slack_j <= row["energy_j"] <= high_w * row["duration_s"] + slack_j
    for row in stages:
        assert by_stage[row["stage_id"], row["attempt"]] == set(row["nodes"])

    epoch_s = time.time() - time.monotonic()
    assert {row["node"] for row in nodes} == set(POWER_W), "the joules of the node that died, too"
    assert len(nodes) == 4 * 4
    for row in nodes:
        scenario, index = SCENARIOS[row["node"]], int(row["device"][-1])
        from_s = row["started_at"].timestamp() - epoch_s
        expected_j = scenario.energy_j(index, from_s, from_s + row["duration_s"], begin_s)
        assert row["energy_j"] == pytest.approx(expected_j, rel=0.01), row
        assert abs(row["difference"]) < 0.005
    joined = [row for row in nodes if row["node"] == "host3"]
    assert all(row["idle_power_w"] == pytest.approx(70 + int(row["device"][-1]), rel=0.05) for row in joined)
    on_joined = [row for row in stages if row["nodes"] == ["host3"]]
    assert all(row["energy_net_j"] is not None for row in on_joined)


SERVED = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{method: none}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.5, repeats: 1, test_examples: 8}}
resources: {{cpus_per_worker: 1, gpus_per_worker: 1, device: cpu}}
energy: {{components: [gpu], idle_s: 0.5, heartbeat_s: 0.5}}
"""


def test_two_kinds_of_gpu_are_told_apart_and_a_run_stops_when_the_machines_of_one_are_gone(hosts, home):
    cluster = Cluster(hosts, cpus=1)

    def command(resources, results="mixed", **others):
        text = SERVED.replace("resources: {", f"resources: {{{resources}")
        for old, new in others.items():
            text = text.replace(f"{old}: 0.5", f"{old}: {new}")
        (home / "served.yaml").write_text(text)
        return [COMMAND, "run", "served.yaml", "--address", cluster.address, "--results", home / results]

    def last_words(resources):
        return hosts[0].run(command(resources), cwd=home, check=2).stderr.splitlines()[-1]

    try:
        cluster.start(0)
        cluster.start(4)
        unclear = last_words("")
        assert unclear.startswith("error: served.yaml: resources.gpu_kind: must be given where there are several kinds")
        assert f"{A100} (host4) and NVIDIA H200 (host0)" in unclear
        too_large = last_words("gpu_kind: a100, workers: 2, ")
        assert "the largest that fits is 1 worker (host4 has 1 CPU and 4 GPUs)" in too_large
        assert rows(home / "mixed", "attempts") == []

        done = hosts[0].run(command("gpu_kind: [H200, A100], "), cwd=home)
        stages = {row["gpu_kind"]: row["nodes"] for row in rows(home / "mixed", "stages")}
        assert stages == {"NVIDIA H200": ["host0"], A100: ["host4"]}
        assert "not ranked" in done.stderr
        ranked = hosts[0].run([COMMAND, "rank", home / "mixed", "--gpu-kind", "A100", "--format", "json"]).stdout
        assert [row["gpu_kind"] for row in json.loads(ranked)["rows"]] == [A100]

        going = command("gpu_kind: A100, wait_minutes: 0.1, ", "away", min_window_s=60)
        with hosts[0].popen(going, cwd=home) as process:
            wait_for(lambda: at_work(home / "away", "host4"), process)
            cluster.kill_raylet(4)
            _, errors = process.communicate(timeout=300)
        assert process.returncode == 1, errors
        assert f"waiting for machines: there is no {A100} here, but NVIDIA H200 (host0)" in errors
        assert errors.splitlines()[-1].startswith("error: stopped: no machines for 0.1 min")
        assert [row["reason"] for row in rows(home / "away", "attempts")] == ["host4 was lost"]
    finally:
        cluster.stop()

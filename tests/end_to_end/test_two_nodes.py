"""A gang over two nodes of a real cluster: hosts of one CPU each, and a sweep that wants two workers."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.end_to_end.command import COMMAND, energyaware, rows
from tests.hosts import Cluster, Hosts, need_hosts
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{method: lora, steps: 6, batch_size: 8, sequence_length: 64, lora: {{rank: 4}}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1}}
resources: {{workers: 2, cpus_per_worker: 1, device: cpu}}
energy: {{idle_s: 0.2}}
"""


@pytest.fixture(scope="module")
def cluster():
    need_hosts()
    with Hosts(2) as hosts, Cluster(hosts, cpus=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("user")
    save_gpt2(home / "my-gpt2")
    save_tickets(home / "tickets.jsonl")
    (home / "mine.yaml").write_text(SWEEP)
    (home / "alone.yaml").write_text(SWEEP.replace("cpus_per_worker: 1", "cpus_per_worker: 0.5"))
    return home


def test_a_gang_over_two_nodes_learns_what_one_on_one_node_does_and_both_nodes_are_metered(cluster, home):
    asked = ["mine.yaml", "--address", cluster.address, "--results", home / "shared"]
    done = cluster.hosts[0].run([COMMAND, "run", *asked], cwd=home)
    assert "results in" in done.stdout + done.stderr
    energyaware("run", "alone.yaml", cwd=home, env=os.environ | {"OMP_NUM_THREADS": "1"})

    shared, alone = home / "shared", home / "results" / "alone"
    names = {host.name for host in cluster.hosts}
    stages = rows(shared, "stages")
    assert {row["kind"] for row in stages} == {"finetune", "inference"}
    assert all(set(row["nodes"]) == names and row["workers"] == 2 for row in stages)
    for stage in stages:
        own = [row for row in rows(shared, "energy") if row["stage_id"] == stage["stage_id"]]
        windows = {row["window"] for row in own} - {"other"}
        assert windows
        assert {(row["node"], row["window"]) for row in own} >= {(name, window) for name in names for window in windows}
        assert all(row["energy_j"] > 0 for row in own if row["component"] == "cpu")
    assert {row["node"] for row in rows(shared, "nodes")} == names

    assert {row["stage_id"] for row in stages} == {row["stage_id"] for row in rows(alone, "stages")}
    for name in ("loss", "validation_loss"):
        together, by_itself = ([row[name] for row in rows(where, "epochs")] for where in (shared, alone))
        assert together == pytest.approx(by_itself, abs=1e-6)
    assert figures(shared) == figures(alone)


def test_under_every_zero_stage_two_nodes_learn_what_one_does(cluster, home):
    (home / "full.yaml").write_text(SWEEP.replace("method: lora, steps: 6", "method: full, epochs: 2"))
    program = [sys.executable, "-m", "tests.end_to_end.zero_gangs", cluster.address, home / "full.yaml", home / "zero"]
    said = cluster.hosts[0].run(program, cwd=ROOT, timeout_s=400).stdout
    found = json.loads(said.splitlines()[-1])
    assert len(found["two nodes"]) == len(found["one node"]) == 4
    for together, by_itself in zip(found["two nodes"], found["one node"], strict=True):
        assert len(together) == 2
        assert together[1][0] < together[0][0], "it learns"
        for epoch, alone in zip(together, by_itself, strict=True):
            assert epoch == pytest.approx(alone, abs=1e-5)


def test_a_cluster_that_does_not_answer_is_one_line_and_exit_code_2(cluster, home):
    asked = ["mine.yaml", "--address", "10.77.0.99:6379", "--results", home / "none"]
    done = cluster.hosts[0].run([COMMAND, "run", *asked], cwd=home, check=2)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: --address: 10.77.0.99:6379: nobody answers")
    assert "Traceback" not in done.stderr
    assert rows(home / "none", "attempts") == []


def figures(results):
    return {(row["task"], row["metric"]): row["value"] for row in rows(results, "quality")}

"""Stages that want machines for themselves: two hosts that could each run two stages run one at a time."""

import json
from itertools import pairwise

import pytest

from tests.end_to_end.command import COMMAND, rows
from tests.hosts import Cluster, Hosts, need_hosts
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(400)]

SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
tasks: root_cause
precisions: [fp32, bf16]
seeds: [0, 1]
finetune: {{method: none, sequence_length: 64}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.5, repeats: 1}}
resources: {{workers: 1, cpus_per_worker: 1, device: cpu, exclusive: node}}
energy: {{idle_s: 0}}
"""


def test_on_a_machine_that_a_stage_has_for_itself_nothing_else_of_the_sweep_runs(tmp_path):
    need_hosts()
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    results = tmp_path / "results"
    with Hosts(2) as hosts, Cluster(hosts, cpus=2) as cluster:
        asked = ["mine.yaml", "--address", cluster.address, "--results", results]
        hosts[0].run([COMMAND, "run", *asked], cwd=tmp_path)
        names = {host.name for host in hosts}
    attempts = rows(results, "attempts")
    assert len(attempts) == len(rows(results, "stages")) == 4
    assert {name for row in attempts for name in row["nodes"]} == names
    for name in names:
        there = sorted((row for row in attempts if row["nodes"] == [name]), key=lambda row: row["started_at"])
        assert all(before["finished_at"] <= after["started_at"] for before, after in pairwise(there))

"""A sweep that may use less than it needs stops, says what it would need, and goes on with more."""

import json
import subprocess

import pytest

from tests.end_to_end.command import COMMAND, energyaware, rows
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{method: full, steps: 600, batch_size: 8, sequence_length: 64}}
inference: {{batch_size: 1, max_new_tokens: 2, min_window_s: 0.1, repeats: 1, test_examples: 4}}
resources: {{cpus_per_worker: 0.5, device: cpu}}
energy: {{components: [cpu], idle_s: 0.2, heartbeat_s: 0.5}}
"""

JOULES_PER_KWH = 3.6e6


@pytest.fixture
def home(tmp_path):
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    return tmp_path


def run(home, budget, more="", check=0):
    (home / "mine.yaml").write_text(f"{SWEEP}{more}budget: {budget}\n")
    done = subprocess.run(
        [COMMAND, "run", "mine.yaml"], cwd=home, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == check, done.stdout + done.stderr
    return " ".join(done.stderr.split())


def status(home):
    return json.loads(energyaware("status", "results/mine", "--format", "json", cwd=home).stdout)


def test_a_fine_tuning_that_uses_the_budget_up_is_gone_on_with_when_there_is_more(home):
    results = home / "results" / "mine"
    told = run(home, "{kwh: 1.0e-6}", check=1)
    assert "estimate for 2 stages: unknown: no earlier stages" in told
    assert "the budget is used up: running fine-tunings leave a checkpoint and stop" in told
    assert "of 1e-06 kWh used, 2 stages left, unknown kWh needed; the same command with a larger budget goes on" in told
    (cut,) = rows(results, "attempts")
    assert (cut["kind"], cut["state"]) == ("finetune", "interrupted")
    assert 0 < cut["checkpoint_step"] < 600
    now = status(home)
    assert (now["left"], now["budget"][0]["name"], now["budget"][0]["share"] > 1) == (2, "kwh", True)
    assert now["stopped_by_budget"].startswith("stopped by the budget: ")

    told = run(home, "{kwh: 1.0e-6}", check=1)
    assert "stopped by the budget: " in told
    assert len(rows(results, "attempts")) == 1, "there is nothing left to start anything with"

    told = run(home, "{kwh: 1, hours: 1}")
    assert "stopped" not in told
    finetune, inference = sorted(rows(results, "stages"), key=lambda row: row["kind"])
    gone_on = [row for row in rows(results, "attempts") if row["kind"] == "finetune" and row["attempt"] == 2]
    assert gone_on[0]["from_step"] == cut["checkpoint_step"]
    now = status(home)
    assert (now["left"], now["stopped_by_budget"]) == (0, None)
    spent_j = sum(row["energy_j"] + row["energy_other_j"] for row in rows(results, "attempts"))
    used = {cap["name"]: cap["used"] for cap in now["budget"]}
    assert used["kwh"] == pytest.approx(spent_j / JOULES_PER_KWH)
    assert used["hours"] * 3600 >= sum(row["duration_s"] for row in rows(results, "attempts"))

    half_a_fine_tuning = (spent_j + finetune["energy_j"] / 2) / JOULES_PER_KWH
    told = run(home, f"{{kwh: {half_a_fine_tuning:.12f}}}", more="seeds: [0, 1]\n", check=1)
    assert "estimate for 2 stages, from 2 finished: " in told
    needed_kwh = float(told.partition("2 stages left, ~")[2].split()[0])
    took_j = sum(row["energy_j"] + row["energy_other_j"] for row in (finetune, inference))
    assert needed_kwh == pytest.approx(took_j / JOULES_PER_KWH, rel=0.01)
    assert len(rows(results, "attempts")) == 3
    assert "estimate for 2 stages, from 2 finished: " in " ".join(
        energyaware("plan", "mine.yaml", cwd=home).stdout.split()
    )

"""A funnel finds what the grid finds with fewer stages; hopeless fine-tunings are stopped, and can be gone on with."""

import json
import os
import subprocess
import time

import pytest

from tests.end_to_end.command import COMMAND, energyaware, rows
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = pytest.mark.end_to_end

SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
tasks: root_cause
precisions: [fp32, bf16]
prunings: [none, magnitude-50%, {{kind: neurons, sparsity: 0.5, applied: before}}]
finetune: {{method: full, learning_rate: 0.01, epochs: 2, batch_size: 16, sequence_length: 64}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1}}
resources: {{workers: 1, device: cpu}}
energy: {{idle_s: 0}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("user")
    save_gpt2(home / "my-gpt2")
    save_tickets(home / "tickets.jsonl")
    return home


def status(home, results):
    return json.loads(energyaware("status", results, "--format", "json", cwd=home).stdout)


def ranked(home, results):
    return json.loads(energyaware("rank", results, "--format", "json", cwd=home).stdout)


def read_all(home, results):
    """Every way of reading results. Returns how many configurations are ranked."""
    found = len(ranked(home, results)["rows"])
    asked = energyaware("query", results, "SELECT count(*) AS n FROM ranking", "--format", "csv", cwd=home)
    assert int(asked.stdout.split()[-1]) >= found
    energyaware("report", results, "-o", "page.html", cwd=home)
    assert status(home, results)["problems"] == []
    return found


def run_watched(home, sweep, results):
    """Run a sweep while its results are read. Returns what it showed, and how many were ranked each time.

    One of the readings is after its fourth finished stage: the run is held there until all has been read.
    """
    points = home / "points"
    points.mkdir()
    (points / "hold").write_text("row-moved 4")
    seen = []
    with (home / "shown").open("w+") as shown:
        run = subprocess.Popen(
            [COMMAND, "run", sweep], cwd=home, stderr=shown, env=os.environ | {"ENERGYAWARE_POINTS": str(points)}
        )
        while run.poll() is None:
            time.sleep(0.2)
            held = (points / "held").exists()
            if (results / "plan.parquet").exists():
                seen.append(read_all(home, results))
            if held:
                (points / "go").touch()
        assert run.returncode == 0, (home / "shown").read_text()
        return (home / "shown").read_text(), seen


def test_a_funnel_prunes_the_best_precision_alone_and_the_grid_then_runs_the_rest(home):
    (home / "mine.yaml").write_text(SWEEP + "strategy: {kind: funnel, keep: 1}\n")
    results = home / "results" / "mine"
    shown, seen = run_watched(home, "mine.yaml", results)
    assert "10 stages, 10 to run" in shown
    assert "funnel: 3 stages of precisions that are not among the best skipped" in shown
    assert seen == sorted(seen)
    assert 2 in seen, "what was finished by then was ranked: two precisions without pruning, of four configurations"
    assert len(rows(results, "stages")) == 7
    now = status(home, results)
    assert now["skipped_stages"] == 3
    assert now["skipped_energy_j"] > 0
    assert "funnel: 3 stages skipped, which saved about" in energyaware("status", results, cwd=home).stdout
    answer = ranked(home, results)
    assert len({row["precision"] for row in answer["rows"] if row["pruning"] != "none"}) == 1
    assert {row["state"] for row in answer["left_out"]} == {"skipped"}
    assert "0 to run" in energyaware("run", "mine.yaml", cwd=home).stderr
    assert "3 skipped by the funnel" in energyaware("plan", "mine.yaml", cwd=home).stdout

    (home / "mine.yaml").write_text(SWEEP)
    assert "3 to run" in energyaware("run", "mine.yaml", cwd=home).stderr
    assert len(rows(results, "stages")) == 10
    assert ranked(home, results)["left_out"] == []


def test_a_fine_tuning_that_others_are_ahead_of_is_stopped_and_goes_on_where_nobody_is_any_more(home):
    (home / "halved.yaml").write_text(SWEEP + "halving: {from_epoch: 1}\nranking: {weight: 0.3}\n")
    results = home / "results" / "halved"
    done = energyaware("run", "halved.yaml", cwd=home)
    stopped = [row for row in rows(results, "attempts") if row["state"] == "stopped"]
    assert stopped, "of four fine-tunings, one after another, not all are ahead of all before them"
    assert "stopped: after epoch 1 its score is number" in done.stderr
    for row in stopped:
        assert row["kind"] == "finetune"
        assert not row["kept"]
        assert row["energy_j"] > 0
        epochs = [epoch for epoch in rows(results, "epochs") if epoch["stage_id"] == row["stage_id"]]
        assert [(epoch["epoch"], epoch["kept"]) for epoch in epochs] == [(1, False)]
        assert epochs[0]["validation_loss"] > 0
        assert epochs[0]["energy_j"] > 0
    now = status(home, results)
    assert now["failed"] == []
    assert now["counts"]["finetune"]["stopped"] == len(stopped)
    assert now["counts"]["inference"]["stopped"] >= len(stopped)
    assert "0 to run" in energyaware("run", "halved.yaml", cwd=home).stderr

    (home / "halved.yaml").write_text(SWEEP)
    energyaware("run", "halved.yaml", cwd=home)
    assert len(rows(results, "stages")) == 10
    again = [row for row in rows(results, "attempts") if row["attempt"] == 2 and row["state"] == "finished"]
    assert {row["stage_id"] for row in again} == {row["stage_id"] for row in stopped}
    assert all(row["from_step"] > 0 for row in again), "from the checkpoint that it left"

"""Many kills at random times over one sweep: whatever they hit, it ends as one that nobody disturbed."""

import contextlib
import json
import os
import random
import subprocess
import time

import psutil
import pytest

from tests.end_to_end.command import COMMAND, energyaware, rows
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.all_interruptions, pytest.mark.timeout(1500)]

KILLS, SEED, LONGEST_S = 20, 7, 22.0
STEPS = 30
TITLES = ("", "ray::Worker", "ray::ResourceTrainable", "ray::NodeMeter", "raylet", "gcs_server")
"""Beginnings of the titles of those who are killed; the empty one is the launcher."""

SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: [fp32, bf16]
prunings: [none, magnitude-2:4]
seeds: [0, 1, 2]
finetune: {{method: lora, steps: {STEPS}, batch_size: 8, sequence_length: 64, lora: {{rank: 4, dropout: 0.1}}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1, test_examples: 8}}
resources: {{workers: 2, cpus_per_worker: 0.5, device: cpu}}
energy: {{idle_s: 0.2, heartbeat_s: 0.5}}
checkpoints: {{every_steps: 2}}
failures: {{retries: 50, backoff_s: 0.1}}
"""


def command(results):
    return [COMMAND, "run", "mine.yaml", "--results", str(results)]


def kill_one_of(process, title):
    """SIGKILL the launcher, or the first that it has started with such a title, if there is one by now."""
    victims = [psutil.Process(process.pid)]
    if title:
        victims = []
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                if os.path.basename(child.cmdline()[0]).startswith(title):  # noqa: PTH119 - a title, not a path
                    victims.append(child)
    for victim in victims[:1]:
        victim.kill()


def figures(results):
    stages = {row["stage_id"]: row["attempt"] for row in rows(results, "stages")}
    quality = sorted(
        (row["stage_id"], row["task"], row["metric"], row["value"])
        for row in rows(results, "quality")
        if stages.get(row["stage_id"]) == row["attempt"]
    )
    losses = {
        (row["stage_id"], row["epoch"]): (row["loss"], row["validation_loss"])
        for row in rows(results, "epochs")
        if stages.get(row["stage_id"]) == row["attempt"]
    }
    return sorted(stages), quality, losses


def known_joules(results):
    """Of what is part of a result, and of attempts that are not and of which all is known."""
    energy = [row for row in rows(results, "energy") if row["stage_id"]]
    unknown = {(row["stage_id"], row["attempt"]) for row in energy if row["energy_j"] is None}
    return sum(row["energy_j"] for row in energy if row["kept"] or (row["stage_id"], row["attempt"]) not in unknown)


def test_a_sweep_that_is_killed_again_and_again_ends_with_the_same_figures(tmp_path):
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    energyaware("run", "mine.yaml", "--results", tmp_path / "whole", cwd=tmp_path)

    draw, results, kills = random.Random(SEED), tmp_path / "killed", 0
    with (tmp_path / "log").open("w+") as log:
        while kills < KILLS:
            process = subprocess.Popen(command(results), cwd=tmp_path, stdout=log, stderr=log)
            while process.poll() is None and kills < KILLS:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(draw.uniform(0.5, LONGEST_S))
                if process.poll() is None:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        kill_one_of(process, draw.choice(TITLES))
                    kills += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(120)
            if process.poll() is None:  # without its raylet a launcher waits for long: people press Ctrl-C twice
                process.kill()
                process.wait()
            if process.returncode == 0:
                break
        done = energyaware("run", "mine.yaml", "--results", results, cwd=tmp_path)
    assert kills >= KILLS / 2, "it was over before it was disturbed"
    assert "0 to run" in energyaware("run", "mine.yaml", "--results", results, cwd=tmp_path).stderr, done.stderr
    assert figures(results) == figures(tmp_path / "whole"), (tmp_path / "log").read_text()
    found = json.loads(energyaware("status", results, "--format", "json", cwd=tmp_path).stdout)
    assert found["useful_energy_j"] + found["lost_energy_j"] == pytest.approx(known_joules(results))
    assert found["problems"] == []
    deadline_s = time.monotonic() + 60
    while (left := [p for p in psutil.process_iter() if _of(p, results)]) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    assert not left


def _of(process, results):
    with contextlib.suppress(psutil.Error):
        return str(results) in " ".join(process.cmdline())
    return False

"""Memory that is really not there, and results measured with other code: through the command line."""

import json
import resource
import subprocess

import pytest

from energyaware.versions import code_hash
from tests.end_to_end.command import COMMAND, energyaware, rows
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{method: full, steps: 2, batch_size: 4, sequence_length: 64}}
inference: {{batch_size: 1, max_new_tokens: 2, min_window_s: 0.1, repeats: 1, test_examples: 4}}
resources: {{cpus_per_worker: 0.5, device: cpu}}
energy: {{idle_s: 0.2}}
"""

LIMIT_BYTES = int(1.9 * 2**30)
"""Of one process: a worker takes about 1 GiB of it with its imports. Linux counts what is asked for."""


@pytest.fixture
def home(tmp_path):
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    return tmp_path


def save_wide(folder, vocabulary):
    """A GPT-2 of one layer whose logits take all the memory: 4 bytes x tokens x vocabulary."""
    from transformers import GPT2Config, GPT2LMHeadModel

    save_gpt2(folder)  # for its tokenizer
    config = GPT2Config(vocab_size=vocabulary, n_embd=16, n_layer=1, n_head=2, n_positions=256, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)


def run_in_little_memory(home):
    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))

    return subprocess.run(
        [COMMAND, "run", "mine.yaml"], cwd=home, preexec_fn=limit, capture_output=True, text=True, check=False
    )


def test_a_micro_batch_that_does_not_fit_is_halved_and_the_global_batch_stays(home):
    save_wide(home / "my-gpt2", 600_000)
    done = run_in_little_memory(home)
    results = home / "results" / "mine"
    assert done.returncode == 0, done.stderr
    assert "trying again with micro-batches of 2" in done.stderr
    attempts = [row for row in rows(results, "attempts") if row["kind"] == "finetune"]
    assert [row["state"] for row in attempts] == ["oom"] * (len(attempts) - 1) + ["finished"]
    assert [row["micro_batch_size"] for row in attempts] == [4, 2, 1][: len(attempts)]
    (finetune,) = [row for row in rows(results, "stages") if row["kind"] == "finetune"]
    assert finetune["micro_batch_size"] == attempts[-1]["micro_batch_size"] < 4
    (epoch,) = rows(results, "epochs")
    assert epoch["steps"] == 2


def test_what_does_not_fit_at_all_is_out_of_memory_and_not_tried_for_ever(home):
    save_wide(home / "my-gpt2", 3_000_000)
    done = run_in_little_memory(home)
    results = home / "results" / "mine"
    assert done.returncode == 1, done.stderr
    attempts = rows(results, "attempts")
    assert [(row["state"], row["micro_batch_size"]) for row in attempts] == [("oom", 4), ("oom", 2), ("oom", 1)]
    assert all("\n" not in row["reason"] for row in attempts)
    status = json.loads(energyaware("status", results, "--format", "json", cwd=home).stdout)
    assert status["counts"]["finetune"]["oom"] == 1
    assert status["counts"]["inference"]["blocked"] == 1


def test_what_other_code_has_measured_is_named_and_measured_again_where_asked(home):
    """The code's hash stands in every row; here the rows are those of a copy of the project with one more comment."""
    save_gpt2(home / "my-gpt2")
    results = home / "results" / "mine"
    energyaware("run", "mine.yaml", cwd=home)
    _as_if_by_other_code(results)

    told = energyaware("run", "mine.yaml", cwd=home)
    assert "0 to run" in told.stderr
    assert "other versions: 2 finished stages: code 0123456789ab, now " in told.stderr
    again = energyaware("run", "mine.yaml", "--rerun-changed", cwd=home)
    assert "2 to run, 2 of them again" in again.stderr
    stages = rows(results, "stages")
    assert [row["attempt"] for row in stages] == [2, 2]
    assert {json.loads(row["versions"])["code"] for row in stages} == {code_hash()}
    assert sorted(path.name for path in (results / "superseded").iterdir()) == sorted(
        f"{row['stage_id']}-1.parquet" for row in stages
    )
    assert {row["attempt"] for row in rows(results, "energy") if row["stage_id"] and row["kept"]} == {2}
    assert "other versions" not in energyaware("run", "mine.yaml", cwd=home).stderr


def _as_if_by_other_code(results):
    import pyarrow.parquet as pq

    from energyaware.arrow import to_table

    for path in results.glob("stages/*/*.parquet"):
        (row,) = pq.read_table(path).to_pylist()
        row["versions"] = json.dumps(json.loads(row["versions"]) | {"code": "0123456789ab"})
        pq.write_table(to_table("stages", [row]), path)

"""A user's whole way: own GPT-2 folder, own JSONL, through the command line, as real processes."""

import csv
import io
import json
import os
import signal
import subprocess
import time

import psutil
import pyarrow.parquet as pq
import pytest

from energyaware.arrow import SCHEMAS
from tests.end_to_end.command import COMMAND, energyaware, kill_one, rows
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

TABLES = [table for table in SCHEMAS if table != "plan"]
SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: [fp32, fp16]
prunings: [none, magnitude-2:4]
finetune: {{method: lora, steps: 6, batch_size: 8, sequence_length: 64, lora: {{rank: 4}}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1}}
resources: {{workers: 2, cpus_per_worker: 0.5, device: cpu}}
energy: {{country: FRA, pue: 1.3, idle_s: 0.2}}
ranking: {{weight: 0.25, requests: 500}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a sweep file, run once."""
    home = tmp_path_factory.mktemp("user")
    save_gpt2(home / "my-gpt2")
    save_tickets(home / "tickets.jsonl")
    (home / "mine.yaml").write_text(SWEEP)
    done = energyaware("run", "mine.yaml", cwd=home)
    (home / "output.txt").write_text(done.stdout + done.stderr)
    return home


def files(results):
    return {
        path.relative_to(results): path.stat().st_mtime_ns
        for table in TABLES
        for path in (results / table).rglob("*")
        if path.is_file()
    }


def test_everything_is_there_under_its_schema(home):
    results = home / "results" / "mine"
    for table in TABLES:
        found = list((results / table).rglob("*.parquet"))
        assert found, table
        assert all(pq.read_schema(path).equals(SCHEMAS[table]) for path in found)
    stages = rows(results, "stages")
    assert sorted((row["kind"], row["pruning"]) for row in stages) == [
        ("finetune", "none"),
        ("inference", "magnitude-2:4"),
        ("inference", "none"),
    ]
    assert {row["model"] for row in stages} == {"my-gpt2"}
    pruned = next(row for row in stages if row["pruning"] != "none")
    assert (pruned["sparsity_target"], pruned["sparsity_achieved"], pruned["realisation"]) == (0.5, 0.5, "simulated")
    assert not [path for path in results.rglob("*") if path.suffix in {".pkl", ".pt", ".bin"}]
    assert (results / "sweep.yaml").read_text().startswith('# {"written"')
    assert list((results / ".incoming").iterdir()) == []


def test_every_joule_has_a_window_a_source_and_a_kind(home):
    results = home / "results" / "mine"
    energy = rows(results, "energy")
    windows = {row["window"] for row in energy}
    assert windows == {"prune", "train", "evaluate", "prefill", "decode", "other", "idle", "unattributed"}
    assert all(row["source"] and row["measured"] is not None and row["kept"] for row in energy)
    assert all(row["duration_s"] > 0 for row in energy)
    own_windows = [row for row in energy if row["window"] not in {"idle", "unattributed"}]
    assert all(row["energy_j"] > 0 and row["carbon_g"] > 0 and row["run"] for row in own_windows)
    for stage in rows(results, "stages"):
        own = [row for row in energy if row["stage_id"] == stage["stage_id"] and row["window"] != "other"]
        assert stage["energy_kind"] == "estimated"
        assert sum(row["energy_j"] for row in own) == pytest.approx(stage["energy_j"])
        assert sum(row["carbon_g"] for row in own) == pytest.approx(stage["carbon_g"])
        assert stage["pue"] == 1.3
        if stage["kind"] == "inference":
            per_request = sum(
                sum(row["energy_j"] for row in own if row["window"] == window) / stage[f"{window}_requests"]
                for window in ("prefill", "decode")
            )
            assert stage["energy_j_per_request"] == pytest.approx(per_request)
    epochs = rows(results, "epochs")
    assert [row["steps"] for row in epochs] == [6]
    assert epochs[0]["energy_j"] == pytest.approx(sum(row["energy_j"] for row in energy if row["window"] == "train"))


def test_progress_and_ranking_are_shown(home):
    output = (home / "output.txt").read_text()
    assert "[3/3] inference fp32 magnitude-2:4 after" in output
    assert "J (estimated)" in output
    assert "R = 0.25 phi + 0.75 rho" in output
    assert output.index("R = 0.25 phi") < output.index("all energy is estimated")
    assert "left out: 2" in output
    assert "infeasible" in output
    assert "Traceback" not in output


def test_running_again_only_ranks_and_starts_nothing(home):
    results = home / "results" / "mine"
    before = files(results)
    for library in ("ray", "torch"):
        (home / "without" / library).mkdir(parents=True)
        (home / "without" / library / "__init__.py").write_text(f"raise ImportError('{library} was imported')\n")
    done = energyaware("run", "mine.yaml", cwd=home, env=os.environ | {"PYTHONPATH": str(home / "without")})
    assert "0 to run" in done.stderr
    assert "R = 0.25 phi" in done.stdout
    assert files(results) == before
    energyaware("resume", results, cwd=home.parent)
    assert files(results) == before


def test_rank_in_every_format(home):
    results = home / "results" / "mine"
    answer = json.loads(energyaware("rank", results, "--format", "json", cwd=home).stdout)
    assert (answer["weight"], answer["requests"], answer["phi"]) == (0.25, 500, "minmax")
    assert [row["rank"] for row in answer["rows"]] == [1, 2]
    wanted = {
        *("rank", "score", "phi", "rho", "model", "precision", "pruning", "realisation", "energy_j_per_request"),
        *("finetune_energy_j", "carbon_g_per_request", "measured", "seeds", "stage_ids"),
    }
    assert all(row.keys() >= wanted for row in answer["rows"])
    assert {row["pruning"] for row in answer["left_out"]} == {"none", "magnitude-2:4"}
    assert {row["state"] for row in answer["left_out"]} == {"infeasible"}
    other = json.loads(
        energyaware("rank", results, "--weight", 1, "--requests", 7, "--format", "json", cwd=home).stdout
    )
    assert (other["weight"], other["requests"]) == (1, 7)
    table = list(csv.DictReader(io.StringIO(energyaware("rank", results, "--format", "csv", cwd=home).stdout)))
    assert [row["precision"] for row in table] == ["fp32", "fp32"]


def test_query_and_status(home):
    results = home / "results" / "mine"
    sql = "SELECT kind, count(*) AS n FROM stages GROUP BY kind ORDER BY kind"
    found = json.loads(energyaware("query", results, sql, "--format", "json", cwd=home).stdout)
    assert found == [{"kind": "finetune", "n": 1}, {"kind": "inference", "n": 2}]
    assert "finetune" in energyaware("query", results, sql, cwd=home).stdout
    status = energyaware("status", results, cwd=home).stdout
    assert "left: nothing" in status
    assert "(estimated)" in status


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run", "none.yaml"], "none.yaml: no such file"),
        (["plan", "bad.yaml"], "bad.yaml: finetune.lr: unknown key; allowed: method"),
        (["run", "bad-column.yaml"], "no column 'body'; columns are: text, label, reply"),
        (["run", "too-many.yaml"], "resources: needs 2 workers"),
        (["rank", "nowhere"], "nowhere"),
        (["rank", "results/mine", "--weight", "2"], "weight"),
        (["rank", "results/mine", "--requests", "0"], "requests"),
        (["query", "results/mine", "SELECT joules FROM stages"], "joules"),
        (["query", "results/mine", "DROP TABLE stages"], "SELECT"),
        (["status", "nowhere"], "nowhere"),
        (["resume", "nowhere"], "holds no sweep.yaml"),
        (["run", "mine.yaml", "--results", "gs://bucket/x"], "s3"),
        (["nonsense"], "nonsense"),
        (["run"], "SWEEP.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(home, arguments, problem):
    (home / "bad.yaml").write_text(SWEEP.replace("steps: 6", "lr: 6"))
    (home / "bad-column.yaml").write_text(SWEEP.replace('"text"', '"body"'))
    (home / "too-many.yaml").write_text(SWEEP.replace("cpus_per_worker: 0.5", "cpus_per_worker: 1000"))
    done = energyaware(*arguments, cwd=home, check=2)
    assert problem in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (home / "results" / "bad").exists()


def test_adding_a_precision_runs_only_what_is_new_and_a_stop_leaves_a_state_to_go_on_from(home):
    """Ctrl-C in the middle of the new stages; the same command then finishes them and touches nothing else."""
    results = home / "results" / "mine"
    before = files(results)
    (home / "mine.yaml").write_text(SWEEP.replace("[fp32, fp16]", "[fp32, bf16]").replace("steps: 6", "steps: 6"))
    process = subprocess.Popen(
        [COMMAND, "run", "mine.yaml"], cwd=home, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while len(list(results.glob("stages/*/*.parquet"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "goes on from here" in errors
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, "nothing is left running"
    interrupted = [row for row in rows(results, "attempts") if row["state"] == "interrupted"]
    assert len({row["stage_id"] for row in interrupted}) == len(interrupted) <= (os.cpu_count() or 1)
    assert all(row["kept"] is False and row["reason"] for row in interrupted)
    finished = {row["stage_id"] for row in rows(results, "stages")}
    assert 4 <= len(finished) < 6

    done = energyaware("run", "mine.yaml", cwd=home)
    assert f"{6 - len(finished)} to run" in done.stderr
    after = files(results)
    assert {path: after[path] for path in before} == before
    assert len(rows(results, "stages")) == 6
    answer = json.loads(energyaware("rank", results, "--format", "json", cwd=home).stdout)
    assert [row["precision"] for row in answer["rows"]].count("bf16") == 2
    assert answer["left_out"] == []


def test_a_stage_that_fails_stops_no_other_and_is_tried_again_where_asked(home):
    """Answers of 64 tokens leave no room for a prompt in 64 positions, which the stage finds out after pruning."""
    results = home / "results" / "fails"
    save_gpt2(home / "short", positions=64)
    sweep = SWEEP.replace("./my-gpt2", "[./short, ./my-gpt2]").replace("[none, magnitude-2:4]", "magnitude-2:4")
    sweep = sweep.replace("[fp32, fp16]", "fp32").replace("max_new_tokens: 4", "max_new_tokens: 64")
    (home / "fails.yaml").write_text(sweep)
    done = energyaware("run", "fails.yaml", cwd=home, check=1)
    assert "failed: StageError: response: answers of 64 tokens leave no room for a prompt" in done.stderr
    states = sorted((row["kind"], row["state"], row["attempt"]) for row in rows(results, "attempts"))
    assert states == [
        *(("finetune", "finished", 1), ("finetune", "finished", 1)),
        *(("inference", "failed", 1), ("inference", "finished", 1)),
    ]
    failed = next(row for row in rows(results, "attempts") if row["state"] == "failed")
    assert "in infer" in failed["traceback"]
    lost = [row for row in rows(results, "energy") if row["stage_id"] == failed["stage_id"]]
    assert {row["window"] for row in lost} == {"prune", "other"}
    assert not any(row["kept"] for row in lost)
    answer = json.loads(energyaware("rank", results, "--format", "json", cwd=home).stdout)
    assert [row["model"] for row in answer["rows"]] == ["my-gpt2"]
    assert [(row["model"], row["state"]) for row in answer["left_out"]] == [("short", "failed")]
    left_alone = energyaware("run", "fails.yaml", cwd=home, check=1)
    assert "0 to run" in left_alone.stderr
    assert f"not tried again: {failed['stage_id']} failed: StageError" in left_alone.stderr
    assert "--retry-failed" in left_alone.stderr
    energyaware("run", "fails.yaml", "--retry-failed", cwd=home, check=1)
    assert max(row["attempt"] for row in rows(results, "attempts")) == 2


def test_a_pruning_that_the_model_cannot_have_is_found_out_before_anything_is_spent(home):
    """2:7 does not fit a matrix of 64 inputs, which only the model can tell."""
    results = home / "results" / "impossible"
    prunings = "[magnitude-2:7, {kind: wanda, sparsity: 0.5, applied: before, layers: {'*.mlp.typo': none}}]"
    (home / "impossible.yaml").write_text(
        SWEEP.replace("[none, magnitude-2:4]", prunings).replace("[fp32, fp16]", "fp32")
    )
    done = energyaware("run", "impossible.yaml", cwd=home)
    assert "infeasible: magnitude-2:7: layer transformer.h.0.attn.c_attn: in_features 64 is not a" in done.stderr
    assert "infeasible: wanda-50%*: the override '*.mlp.typo' matches none of 8 layers" in done.stderr
    assert rows(results, "attempts") == []
    answer = json.loads(energyaware("rank", results, "--format", "json", cwd=home).stdout)
    reasons = {row["pruning"]: (row["state"], row["reason"]) for row in answer["left_out"]}
    assert reasons["magnitude-2:7"][0] == reasons["wanda-50%*"][0] == "infeasible"
    assert reasons["wanda-50%*"][1].startswith("its fine-tuning is infeasible: wanda-50%*: the override")


def test_a_diverged_fine_tuning_is_no_result_and_blocks_what_needs_it(home):
    (home / "diverges.yaml").write_text(
        SWEEP.replace("method: lora", "method: full, learning_rate: 1e30").replace("steps: 6", "steps: 30")
    )
    done = energyaware("run", "diverges.yaml", cwd=home, check=1)
    results = home / "results" / "diverges"
    assert [row["state"] for row in rows(results, "attempts")] == ["diverged"]
    assert rows(results, "stages") == []
    assert "blocked: its fine-tuning ended diverged" in done.stderr
    answer = json.loads(energyaware("rank", results, "--format", "json", cwd=home).stdout)
    assert answer["rows"] == []
    assert {row["state"] for row in answer["left_out"] if row["precision"] == "fp32"} == {"blocked"}


def in_training(results):
    """Stages that the ledgers of running meters have a train window of."""
    ledgers = [json.loads(path.read_text()) for path in results.glob("ledger/*.json")]
    return {row["stage_id"] for ledger in ledgers for row in ledger["energy"] if row["window"] == "train"}


@pytest.mark.parametrize("victim", ["ray::Worker.run", "ray::ResourceTrainable.train", "ray::NodeMeter"])
def test_a_killed_process_costs_one_attempt_at_its_stage_and_no_other(home, victim):
    name = victim.removeprefix("ray::")
    results = home / "results" / name
    sweep = SWEEP.replace("[fp32, fp16]", "[fp32, bf16]").replace("[none, magnitude-2:4]", "none")
    sweep = sweep.replace("steps: 6", "steps: 300").replace("idle_s: 0.2", "idle_s: 0.2, heartbeat_s: 0.5")
    (home / f"{name}.yaml").write_text(sweep)
    with subprocess.Popen([COMMAND, "run", f"{name}.yaml"], cwd=home, stderr=subprocess.PIPE, text=True) as process:
        deadline_s = time.monotonic() + 120
        while len(in_training(results)) < min(2, os.cpu_count() or 1):  # whoever is killed has joules then
            assert time.monotonic() < deadline_s, "no stage trains"
            time.sleep(0.05)
        hit = len(in_training(results)) if victim == "ray::NodeMeter" else 1  # a meter is that of all on its node
        kill_one(process, victim, deadline_s)
        _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    assert "trying again in" in errors
    attempts = rows(results, "attempts")
    assert sorted(row["state"] for row in attempts) == [*["failed"] * hit, *["finished"] * 4], errors
    for failed in (row for row in attempts if row["state"] == "failed"):
        assert failed["energy_other_j"] > 0, "what it had spent is kept, as lost"
        assert "meter" in failed["reason"] or "died" in failed["reason"]
        assert [row["attempt"] for row in attempts if row["stage_id"] == failed["stage_id"]] == [1, 2]

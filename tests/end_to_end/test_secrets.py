"""No secret of the environment stands in anything that a run writes or prints, nor one that was given in a URL."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.command import energyaware, rows
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

SECRETS = {
    "HF_TOKEN": "hf_SECRETofthehub0000000000000000000",
    "AWS_SECRET_ACCESS_KEY": "SECRETofthestorage000000000000000000000",
    "AWS_SESSION_TOKEN": "SECRETofthesession",
    "RAY_AUTH_TOKEN": "5ec2e7" * 10,
    "MY_PASSWORD": "SECRETofanother",
}
SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{method: lora, steps: 2, batch_size: 8, sequence_length: 64, learning_rate: RATE, lora: {{rank: 4}}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1, test_examples: 4}}
resources: {{workers: 1, cpus_per_worker: 0.5}}
energy: {{idle_s: 0.2, heartbeat_s: 0.5}}
failures: {{retries: 0}}
"""


@pytest.fixture
def home(tmp_path):
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "good.yaml").write_text(SWEEP.replace("RATE", "1e-4"))
    (tmp_path / "bad.yaml").write_text(SWEEP.replace("RATE", "1e30").replace("steps: 2", "steps: 12"))
    return tmp_path


def texts(folder):
    """What every file below a folder says, Parquet read as the values that it holds."""
    for path in filter(Path.is_file, folder.rglob("*")):
        held = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else ""
        yield str(path), path.read_bytes().decode(errors="replace") + held


def assert_no_secret(told):
    found = [(name, where) for where, text in told for name, secret in SECRETS.items() if secret in text]
    assert not found


def test_secrets_of_the_environment_are_in_no_row_log_or_file_of_a_run_that_ends_well_or_badly(home):
    ray = Path(tempfile.mkdtemp(prefix="ea", dir="/tmp"))  # short: Ray has sockets in it
    env = os.environ | SECRETS | {"RAY_AUTH_MODE": "token", "RAY_TMPDIR": str(ray)}
    try:
        energyaware("run", "good.yaml", "--results", "good", "--detach", cwd=home, env=env)
        watched = energyaware("status", "good", "--watch", cwd=home, env=env)
        bad = energyaware("run", "bad.yaml", "--results", "bad", cwd=home, env=env, check=1)
        assert {row["state"] for row in rows(home / "bad", "attempts")} <= {"diverged", "failed"}
        assert len(rows(home / "good", "stages")) == 2
        assert (home / "good" / "run.log").exists()
        assert (home / "good" / "detached.json").exists()
        logs = list(texts(ray))
        assert any("raylet" in where for where, _ in logs)
        assert_no_secret([*texts(home), *logs, *(("output", done.stdout + done.stderr) for done in (watched, bad))])
    finally:
        shutil.rmtree(ray, ignore_errors=True)


@pytest.mark.parametrize(
    ("results", "model", "endpoint"),
    [
        ("s3://me:SECRETofanother@bucket/x", "./my-gpt2", None),
        ("results", "{hub: someone/tiny}", "http://me:SECRETofanother@127.0.0.1:1"),
    ],
)
def test_a_password_in_a_url_is_not_repeated(home, results, model, endpoint):
    (home / "mine.yaml").write_text(SWEEP.replace("RATE", "1e-4").replace("./my-gpt2", model))
    env = os.environ | {"HF_HOME": str(home / "hub")} | ({"HF_ENDPOINT": endpoint} if endpoint else {})
    done = energyaware("run", "mine.yaml", "--results", results, cwd=home, env=env, check=2)
    assert_no_secret([*texts(home), ("output", done.stdout + done.stderr)])
    assert len(done.stderr.splitlines()[-1]) > len("error: ")

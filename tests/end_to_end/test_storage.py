"""Results where users keep them: in S3 that fails, on a disk that fills up, and in a folder that two runs want."""

import json
import os
import shutil
import subprocess
import time

import pytest

from tests.end_to_end.command import COMMAND, energyaware, rows
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytest_plugins = "tests.s3"
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
prunings: [none, magnitude-2:4]
finetune: {{method: full, steps: 12, batch_size: 8, sequence_length: 64}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1, test_examples: 8}}
resources: {{cpus_per_worker: 0.5, device: cpu}}
energy: {{idle_s: 0.2, heartbeat_s: 0.5}}
checkpoints: {{every_steps: 2}}
"""


@pytest.fixture
def home(tmp_path):
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    return tmp_path


def start(home, results):
    return subprocess.Popen(
        [COMMAND, "run", "mine.yaml", "--results", results], cwd=home, stderr=subprocess.PIPE, text=True
    )


def wait_for(something, process, timeout_s=200):
    deadline_s = time.monotonic() + timeout_s
    while not something():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_sweep_with_results_in_s3_survives_errors_an_outage_and_its_own_death(home, bucket, proxy, monkeypatch):
    from energyaware.files import open_files

    results = f"{bucket}/sweep"
    files = open_files(results)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    first = start(home, results)
    wait_for(lambda: any(name.endswith("COMMIT") for name in files.names("checkpoints")), first)
    first.kill()
    first.communicate()
    killed_with = {name for name in files.names("checkpoints") if name.endswith("COMMIT")}
    assert killed_with

    proxy.errors, proxy.drop_every = 5, 11
    second = start(home, results)
    wait_for(lambda: any(name.startswith("stages/finetune/") for name in files.names("stages")), second)
    with proxy.outage(10):
        pass
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    proxy.drop_every = 0

    local = home / "copy"
    files.get("", local)
    assert sorted(row["kind"] for row in rows(local, "stages")) == ["finetune", "inference", "inference"]
    (finetune,) = [row for row in rows(local, "stages") if row["kind"] == "finetune"]
    assert finetune["carried_attempts"] == 1, "it went on from the first one's checkpoint"
    assert files.names("checkpoints") == []
    for command in (["rank"], ["status"], ["query"]):
        asked = [command[0], results, *(["SELECT count(*) AS n FROM stages"] if command == ["query"] else [])]
        answer = json.loads(energyaware(*asked, "--format", "json", cwd=home).stdout)
        assert answer
    assert "0 to run" in energyaware("run", "mine.yaml", "--results", results, cwd=home).stderr
    energyaware("compact", results, cwd=home)
    assert len(json.loads(energyaware("rank", results, "--format", "json", cwd=home).stdout)["rows"]) == 2
    assert "very-secret" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk wants root")
def test_a_disk_that_fills_up_stops_the_run_in_good_order_and_more_room_lets_it_go_on(home):
    disk = home / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        results = disk / "results"
        process = start(home, results)
        wait_for(lambda: list(results.glob("checkpoints/*/*/COMMIT")), process)
        filling = disk / "someone-elses"
        with filling.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        _, said = process.communicate(timeout=400)
        assert process.returncode == 1, said
        assert "No space left" in said.splitlines()[-1], said
        assert "the same command" in said.splitlines()[-1], said
        for path in results.rglob("*.parquet"):
            assert ".incoming" in path.parts or rows_of(path) is not None

        filling.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        energyaware("run", "mine.yaml", "--results", results, cwd=home)
        assert len(rows(results, "stages")) == 3
        found = json.loads(energyaware("status", results, "--format", "json", cwd=home).stdout)
        assert found["problems"] == []
        shutil.copytree(results, home / "kept")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def rows_of(path):
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def test_of_two_runs_on_one_folder_the_second_is_told_who_has_it(home):
    results = home / "results"
    first = start(home, results)
    wait_for(lambda: list(results.glob("lease/*.json")), first)
    second = energyaware("run", "mine.yaml", "--results", results, cwd=home, check=2)
    assert f"process {first.pid}, since " in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    refused = energyaware("compact", results, cwd=home, check=2)
    assert f"process {first.pid}" in refused.stderr
    watched = energyaware("status", results, "--format", "json", cwd=home)
    assert f"process {first.pid}" in json.loads(watched.stdout)["held_by"]
    _, said = first.communicate(timeout=300)
    assert first.returncode == 0, said
    assert len(rows(results, "stages")) == 3

"""A sweep as a job of a real Slurm on two hosts: warned that its time is nearly up, it is queued again and goes on."""

import json
import subprocess
import time

import psutil
import pytest

from tests.daemons import names_of_processes, need
from tests.end_to_end.command import energyaware, rows
from tests.hosts import Hosts, need_hosts
from tests.own_data import COLUMNS, save_tickets
from tests.slurm import Slurm
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

PATIENCE_S = 400.0

SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{method: lora, steps: 200, batch_size: 8, sequence_length: 64, lora: {{rank: 4}}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1}}
resources: {{workers: 2, cpus_per_worker: 1, device: cpu}}
energy: {{idle_s: 0.2}}
checkpoints: {{every_steps: 5}}
"""


@pytest.fixture
def slurm():
    need_hosts()
    need(["munged", "slurmctld", "slurmd", "sbatch"], "slurm-wlm, munge")
    with Hosts(2) as hosts, Slurm(hosts, cpus=1) as slurm:
        yield slurm


def test_a_job_that_is_warned_leaves_a_checkpoint_and_goes_on_after_it_was_queued_again(slurm, tmp_path):
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    results, log = tmp_path / "results", tmp_path / "job.log"
    energyaware("cluster", "slurm", "mine.yaml", "--nodes", 2, "--results", results, "-o", "job.sh", cwd=tmp_path)
    assert "Submitted batch job 1" in slurm.ask("sbatch", "--output", log, tmp_path / "job.sh", cwd=tmp_path)

    wait_until(lambda: list(results.glob("checkpoints/*/*/COMMIT")), slurm, log)
    folders = [slurm.hosts.folder / host.name / "energyaware-1-0" for host in slurm.hosts]
    tokens = {(folder / "token").read_text().strip() for folder in folders}
    assert len(tokens) == 1
    for folder in folders:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "token").stat().st_mode & 0o777 == 0o600
    [token] = tokens
    assert len(token) == 64
    assert token not in slurm.ask("scontrol", "show", "job", "--details") + arguments_and_environments(slurm.hosts)

    slurm.ask("scancel", "--signal=USR1", "--batch", "1")
    wait_until(lambda: not slurm.ask("squeue", "--noheader").strip(), slurm, log)

    said = log.read_text()
    assert "it goes on from step" in said
    assert "results in" in said
    assert token not in said
    first, *later = sorted(rows(results, "attempts"), key=lambda row: row["started_at"])
    assert (first["kind"], first["state"]) == ("finetune", "interrupted")
    assert [(row["kind"], row["state"]) for row in later] == [("finetune", "finished"), ("inference", "finished")]
    assert later[0]["from_step"] == first["checkpoint_step"] > 0
    assert all(set(row["nodes"]) == {"host0", "host1"} for row in rows(results, "stages"))
    for host, folder in zip(slurm.hosts, folders, strict=True):
        assert not list(folder.parent.glob("energyaware-*"))
        assert set(names_of_processes(host)) <= {"unshare", "sleep", "munged", "slurmctld", "slurmscriptd", "slurmd"}


def wait_until(what, slurm, log):
    deadline_s = time.monotonic() + PATIENCE_S
    while not what():
        said = log.read_text() if log.exists() else ""
        assert time.monotonic() < deadline_s, slurm.ask("squeue") + said
        time.sleep(0.2)


def arguments_and_environments(hosts):
    """Of every process on the hosts, as root can read them."""
    found = []
    for host in hosts:
        pids = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True)
        for pid in pids.stdout.split():
            try:
                process = psutil.Process(int(pid))
                found += [*process.cmdline(), *process.environ().values()]
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
    assert len(found) > 100
    return "\n".join(found)

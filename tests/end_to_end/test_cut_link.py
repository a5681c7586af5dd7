"""The link of a host is cut while a gang spans it: for a while, and for good."""

import json
import time

import pytest

from energyaware.points import FOLDER
from tests.end_to_end.command import COMMAND, rows
from tests.end_to_end.interruptions import Points, read_log, titled
from tests.hosts import Cluster, Hosts, need_hosts
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

STEPS = 12
SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{method: full, steps: {STEPS}, batch_size: 8, sequence_length: 64}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1, test_examples: 8}}
resources: {{workers: 2, cpus_per_worker: 1, device: cpu}}
energy: {{idle_s: 0.2}}
checkpoints: {{every_steps: 2}}
failures: {{backoff_s: 0.5}}
"""


@pytest.fixture
def home(tmp_path):
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    return tmp_path


@pytest.mark.parametrize("cut_s", [10, None], ids=["10 s", "for good"])
def test_a_gang_whose_link_is_cut_goes_on_and_ends_with_all_its_steps(home, cut_s):
    """Held at a step, so that the link is cut in the middle of the training; three hosts, of which two are enough."""
    need_hosts()
    points, results = Points(home), home / "results"
    with Hosts(3) as hosts, Cluster(hosts, cpus=1, **{FOLDER: str(points.name)}) as cluster:
        points.renew()
        (points.folder / "hold").write_text("step 5")
        asked = [COMMAND, "run", "mine.yaml", "--address", cluster.address, "--results", str(results)]
        with (home / "log").open("w") as log:
            run = hosts[0].popen(asked, cwd=home, output=log, **{FOLDER: str(points.name)})
            deadline_s = time.monotonic() + 200
            while not points.held():
                assert run.poll() is None, (home / "log").read_text()
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            far = next(host for host in list(hosts)[1:] if titled(host.processes(), "ray::Worker"))
            far.cut()
            points.release()
            if cut_s is not None:
                time.sleep(cut_s)
                far.mend()
            assert run.wait(timeout=400) == 0, (home / "log").read_text()
        steps = sum(point == "step" for point, _ in read_log(points.folder))
    stages = rows(results, "stages")
    assert sorted(row["kind"] for row in stages) == ["finetune", "inference"]
    (epoch,) = rows(results, "epochs")
    assert epoch["steps"] == STEPS
    assert steps <= STEPS + 3
    if cut_s is None:
        assert far.name not in {node for row in stages for node in row["nodes"]}
        lost = [row for row in rows(results, "attempts") if row["state"] == "interrupted"]
        assert lost
        assert any(far.name in row["reason"] for row in lost)

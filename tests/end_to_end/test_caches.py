"""Code, models and data reach the nodes of a cluster: two hosts with caches of their own, and a hub beside them."""

import functools
import json
import shutil
import sys
from pathlib import Path

import pytest

from energyaware.versions import code_hash
from tests.end_to_end.command import COMMAND, energyaware, rows
from tests.hosts import OBJECT_STORE_BYTES, PORT, Cluster, Hosts, need_hosts
from tests.hub import COMMIT
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

RAY = Path(sys.executable).with_name("ray")
ROOT = Path(__file__).parents[2]
PACKAGES = ("analysis", "cluster", "energyaware", "sweep")
SWEEP = f"""
model: {{hub: someone/tiny}}
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
prunings: [none, magnitude-50%]
finetune: {{method: none, sequence_length: 64}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1, test_examples: 4}}
resources: {{workers: 2, cpus_per_worker: 1, device: cpu}}
energy: {{idle_s: 0.2}}
"""
SERVE = """
import signal, sys
from tests.hub import Hub
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
with Hub(sys.argv[1], sys.argv[2]) as hub:
    print(hub.url, flush=True)
    signal.sigwait({signal.SIGTERM})
    print(hub.sent(".safetensors"), flush=True)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("user")
    save_gpt2(home / "hub" / "someone" / "tiny")
    save_tickets(home / "tickets.jsonl")
    (home / "mine.yaml").write_text(SWEEP)
    save_gpt2(home / "my-gpt2")
    own = {"{hub: someone/tiny}": "./my-gpt2", "[none, magnitude-50%]": "none", "workers: 2": "workers: 1"}
    (home / "own.yaml").write_text(functools.reduce(lambda text, change: text.replace(*change), own.items(), SWEEP))
    return home


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Another version of this project's code, which cannot run a stage, by where it is to lie."""
    folder = tmp_path_factory.mktemp("old")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module in ("energyaware/stage.py", "sweep/runner.py"):
        (folder / module).write_text("raise ImportError('another version')\n")
    return {ROOT / package: folder / package for package in PACKAGES}


@pytest.fixture
def hosts():
    need_hosts()
    with Hosts(2, RAY_worker_niceness="0") as hosts:
        yield hosts


def test_code_and_a_model_of_the_hub_reach_nodes_that_have_neither(hosts, home, old):
    hub = hosts[0].popen([sys.executable, "-c", SERVE, home / "hub", hosts[0].address], cwd=ROOT)
    url = hub.stdout.readline().strip()
    for host in hosts:
        host.environment |= {"HF_ENDPOINT": url, "HF_HOME": str(home / host.name), "HF_HUB_DISABLE_XET": "1"}
    hosts[1].mounts |= old
    with Cluster(hosts, cpus=1) as cluster:
        asked = ["mine.yaml", "--address", cluster.address, "--results", home / "shared"]
        refused = hosts[0].run([COMMAND, "run", *asked], cwd=home, check=2).stderr
        assert "host1" in refused.splitlines()[-1]
        hosts[0].run([COMMAND, "run", *asked, "--ship-code"], cwd=home)
    hub.terminate()
    sent, _ = hub.communicate()
    assert sent.strip() == "{'model.safetensors': 2}", "once for each node, and not for each worker and stage"
    for host in hosts:
        assert (home / host.name / "hub" / "models--someone--tiny" / "snapshots" / COMMIT / "config.json").exists()
    stages = rows(home / "shared", "stages")
    assert [sorted(row["nodes"]) for row in stages] == [["host0", "host1"]] * 2
    assert {json.loads(row["versions"])["code"] for row in stages} == {code_hash()}


def test_a_detached_run_ships_its_code_to_the_head_too(hosts, home, old):
    command = [RAY, "start", "--head", "--port", PORT, "--node-ip-address", hosts[0].address, "--num-cpus", 1]
    command += ["--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--temp-dir", hosts.temporary]
    command += ["--object-store-memory", OBJECT_STORE_BYTES, "--disable-usage-stats"]
    hosts[0].mounts |= old
    hosts[0].run(command)
    hosts[0].mounts.clear()
    asked = ["own.yaml", "--address", f"{hosts[0].address}:{PORT}", "--results", home / "detached", "--detach"]
    said = hosts[0].run([COMMAND, "run", *asked, "--ship-code"], cwd=home).stdout
    assert "detached as Ray job" in said
    energyaware("status", home / "detached", "--watch", cwd=home)
    assert {json.loads(row["versions"])["code"] for row in rows(home / "detached", "stages")} == {code_hash()}


def test_a_machine_ships_no_code_to_itself(home):
    refused = energyaware("run", "own.yaml", "--ship-code", cwd=home, check=2).stderr
    assert refused.startswith("error: --ship-code: is for clusters: give --address")

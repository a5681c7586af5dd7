"""What Prometheus would scrape from a cluster of two hosts while a sweep runs on it, against the sweep's own ledger."""

import contextlib
import json
import re
import signal
import sys
import time

import pytest

from energyaware.energy.ledger_file import read_ledger
from energyaware.store import Store
from tests.end_to_end.command import COMMAND, rows
from tests.hosts import Cluster, Hosts, need_hosts
from tests.nvml.scenario import Constant, Gpu
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]
pytest_plugins = "tests.nvml.plugin"

DEADLINE_S = 120.0
SWEEP = f"""
name: watched
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{method: lora, steps: 1000000, batch_size: 8, sequence_length: 64, lora: {{rank: 4}}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1}}
resources: {{workers: 1, cpus_per_worker: 1, device: cpu}}
energy: {{idle_s: 0.2, heartbeat_s: 0.5}}
budget: {{kwh: 1}}
"""
PORTS = """
import json, ray, sys
ray.init(sys.argv[1], log_to_driver=False)
print(json.dumps({node["NodeManagerHostname"]: node["MetricsExportPort"] for node in ray.nodes()}))
"""
SCRAPE = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
LINE = re.compile(r"^ray_(energyaware_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
NEAR = 0.1
"""Of power over 5 s: counters move in steps, and a busy machine reads them late. Joules are held to the ledger's."""
POWER_W = {"host0": 100.0 + 150.0, "host1": 100.0 + 150.0}
KILLED = "host1"


@pytest.fixture
def cluster(gpus):
    need_hosts()
    simulated = [Gpu("GPU-a", Constant(100.0)), Gpu("GPU-b", Constant(150.0))]
    lines = [line for index, gpu in enumerate(simulated) for line in gpu.lines(index)]
    named = {name: gpus.environment(*lines)[name] for name in ("LD_LIBRARY_PATH", "NVML_SCENARIO")}
    with (
        Hosts(2, **named) as hosts,
        Cluster(hosts, RAY_metrics_report_interval_ms="1000", RAY_worker_niceness="0") as cluster,
    ):
        yield cluster


@contextlib.contextmanager
def running(process):
    """A process that does not outlive the block."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def until(found):
    """What it finds, as soon as that is anything."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not (what := found()):
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    return what


def scrape(host, url):
    """Values by metric and its labels other than Ray's own."""
    values = {}
    for name, labels, value in LINE.findall(host.run([sys.executable, "-c", SCRAPE, url]).stdout):
        labelled = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert labelled["sweep"] == "watched"
        own = [labelled[key] for key in ("state", "node", "component", "cap") if key in labelled]
        values[(name, *own)] = float(value)
    return values


def ledger(results):
    """Joules of the nodes by node and component, as the ledgers of running meters have them."""
    joules = {}
    for place in Store(results).ledgers():
        for row in read_ledger(place)["nodes"]:
            if row["energy_j"] is not None:
                key = row["node"], row["component"]
                joules[key] = joules.get(key, 0.0) + row["energy_j"]
    return joules


def test_joules_power_and_stages_of_a_running_sweep_are_exported(cluster, tmp_path):
    save_gpt2(tmp_path / "my-gpt2")
    save_tickets(tmp_path / "tickets.jsonl")
    (tmp_path / "mine.yaml").write_text(SWEEP)
    host, results = cluster.hosts[0], tmp_path / "results"
    port = json.loads(host.run([sys.executable, "-c", PORTS, cluster.address]).stdout)["host0"]
    url = f"http://{host.address}:{port}/metrics"
    command = [COMMAND, "run", "mine.yaml", "--address", cluster.address, "--results", str(results)]
    with (tmp_path / "out").open("w") as output, running(host.popen(command, cwd=tmp_path, output=output)) as run:

        def metered():
            assert run.poll() is None, (tmp_path / "out").read_text()
            joules = ledger(results)
            return joules if joules.keys() >= {("host0", "gpu"), ("host1", "gpu")} else None

        before = until(metered)

        def exported():
            values = scrape(host, url)
            joules = {key: values.get(("energyaware_energy_joules_total", *key), 0.0) for key in before}
            return all(joules[key] >= before[key] for key in before) and joules

        joules = until(exported)
        assert until(lambda: all(ledger(results)[key] >= joules[key] for key in joules))

        def powered():
            values = scrape(host, url)
            power_w = {name: values.get(("energyaware_power_watts", name, "gpu")) for name in POWER_W}
            return None not in power_w.values() and power_w

        assert until(powered) == pytest.approx(POWER_W, rel=NEAR)
        states = until(lambda: (found := stages(scrape(host, url)))["running"] and found)
        assert states == {"finished": 0, "running": 1, "waiting": 1, "failed": 0}

        known_kwh = sum(joules.values()) / 3.6e6
        assert until(lambda: scrape(host, url).get(("energyaware_budget_used_ratio", "kwh"), 0) > 0.1 * known_kwh)

        saved = ledger(results)
        cluster.kill_raylet(1)
        until(lambda: powers(scrape(host, url)) == POWER_W.keys() - {KILLED})
        last = scrape(host, url)
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=DEADLINE_S) == 130, (tmp_path / "out").read_text()

    final = {}
    for row in rows(results, "nodes"):
        final[row["node"], row["component"]] = final.get((row["node"], row["component"]), 0.0) + (
            row["energy_j"] or 0.0
        )
    for key in before:
        exported_j = last["energyaware_energy_joules_total", *key]
        assert before[key] <= exported_j
        assert saved[key] <= final[key] * (1 + 1e-9)
        if key[0] != KILLED:  # its last heartbeat may have been told, but not written
            assert exported_j <= final[key] * (1 + 1e-9)


def stages(values):
    return {name[1]: int(value) for name, value in values.items() if name[0] == "energyaware_stages"}


def powers(values):
    """Nodes whose power is told."""
    return {name[1] for name in values if name[0] == "energyaware_power_watts"}

"""A sweep that is killed, at any point, ends as one that was not: same stages, losses and figures, every joule kept.

The cases are in `interruption_cases`. All of them, and docs/interruptions.md made anew: `make interruptions`.
"""

import json
import os
import platform
import shutil
from pathlib import Path

import pytest

from energyaware.points import FOLDER
from tests.end_to_end.command import energyaware, rows
from tests.end_to_end.interruption_cases import (
    COMPACTION,
    ON_A_CLUSTER,
    ON_ONE_MACHINE,
    REPRESENTATIVE,
    REPRESENTATIVE_ON_A_CLUSTER,
    Finding,
    name,
    write_json,
    write_page,
)
from tests.end_to_end.interruptions import ClusterOfHosts, Interruption, LocalMachine, Points, Story
from tests.hosts import Cluster, Hosts, need_hosts
from tests.own_data import COLUMNS, save_tickets
from tests.powercap import Powercap, intel
from tests.tiny import save_gpt2

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

PAGE = "ENERGYAWARE_INTERRUPTIONS_PAGE"
"""Environment variable: where to write the page."""

STEPS, EVERY = 12, 2
POWER_W = 50.0
"""Of a processor. How many joules a run takes depends on what else the machine does; which windows it has does not."""

SWEEP = f"""
model: ./my-gpt2
data: {{path: tickets.jsonl, columns: {json.dumps(COLUMNS)}}}
precisions: fp32
finetune: {{method: full, learning_rate: 0.01, steps: {STEPS}, batch_size: 8, sequence_length: 64}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1}}
resources: {{workers: 2, cpus_per_worker: 0.5, device: cpu}}
energy: {{idle_s: 0.2, heartbeat_s: 0.5, components: [cpu]}}
checkpoints: {{every_steps: {EVERY}}}
failures: {{backoff_s: 0.1}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's folder; every case has results of its own in it."""
    home = tmp_path_factory.mktemp("user")
    save_gpt2(home / "my-gpt2")
    save_tickets(home / "tickets.jsonl")
    (home / "mine.yaml").write_text(SWEEP)
    (home / "cluster.yaml").write_text(SWEEP.replace("cpus_per_worker: 0.5", "cpus_per_worker: 1"))
    return home


@pytest.fixture(scope="module")
def processor(home):
    """A simulated one with a counter of its joules; the environment in which programs see it."""
    powercap = intel(Powercap(home / "powercap"), sockets=1)
    with powercap.drawing({"intel-rapl:0": [(0, POWER_W)]}):
        yield powercap.environment


@pytest.fixture(scope="module")
def machine(home, processor):
    return LocalMachine(home / "local", os.environ | processor | {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def cluster(home, processor):
    """A head and two other hosts of one CPU each: a gang of two has a place when one of them is lost."""
    need_hosts()
    points = Points(home / "cluster")
    with Hosts(3, **processor) as hosts, Cluster(hosts, cpus=1, **{FOLDER: str(points.name)}) as cluster:
        yield ClusterOfHosts(cluster, points)


@pytest.fixture(scope="module")
def whole(home, machine):
    """Results of a run that nobody interrupted."""
    story = Story(home, ["run", "mine.yaml", "--results", home / "whole"], machine)
    story.finish()
    assert len(story.launches) == 1, story.told
    assert story.launches[0].steps == STEPS
    assert any(row["value"] > 0 for row in rows(home / "whole", "quality")), "or equal figures would mean little"
    assert rank(home / "whole")[0], story.told
    return home / "whole"


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """What was found; where asked for, it becomes the page."""
    found = []
    yield found
    write_json(tmp_path_factory.mktemp("found") / "interruptions.json", found)
    if page := os.environ.get(PAGE):
        write_page(page, found, f"{name_of_processor()}, {len(os.sched_getaffinity(0))} cores")


def name_of_processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def parameters(cases, representative):
    return [
        pytest.param(case, id=name(case), marks=[] if name(case) in representative else pytest.mark.all_interruptions)
        for case in cases
    ]


def status(results):
    return json.loads(energyaware("status", results, "--format", "json", cwd=results).stdout)


def rank(results):
    answer = json.loads(energyaware("rank", results, "--format", "json", cwd=results).stdout)
    return [(row["rank"], row["stage_ids"], row["rho"]) for row in answer["rows"]], answer["left_out"]


def assert_same(results, whole):
    """The same stages, each once, with the same losses and figures, and the same ranking."""
    stages = {row["stage_id"]: row["attempt"] for row in rows(results, "stages")}
    assert sorted(row["stage_id"] for row in rows(results, "stages")) == sorted(
        row["stage_id"] for row in rows(whole, "stages")
    )

    def kept(table):
        return [row for row in rows(results, table) if row["attempt"] == stages[row["stage_id"]]]

    for column in ("loss", "validation_loss", "steps", "tokens"):
        mine, theirs = (
            {(row["stage_id"], row["epoch"]): row[column] for row in table}
            for table in (kept("epochs"), rows(whole, "epochs"))
        )
        assert mine == pytest.approx(theirs, abs=1e-6), column
    mine, theirs = (
        sorted(
            [row[name] for name in ("stage_id", "task", "metric", "value", "examples", "per_example")] for row in table
        )
        for table in (kept("quality"), rows(whole, "quality"))
    )
    assert mine == theirs
    assert rank(results) == rank(whole)


def windows(results):
    """Of the work that is in results: on no node is one counted twice."""
    kept = [row for row in rows(results, "energy") if row["stage_id"] and row["kept"]]
    assert all(row["energy_j"] > 0 for row in kept)
    names = ("stage_id", "window", "epoch", "from_step", "repeat")
    work = [row for row in kept if row["window"] not in {"other", "checkpoint"}]
    found = [(row["node"], *(row[name] for name in names)) for row in work]
    assert len(set(found)) == len(found)
    return {window[1:] for window in found}


def assert_accounted_for(results, whole):
    """Every attempt is recorded, every joule is useful or lost, and nothing is left of interrupted writes."""
    numbers = {}
    for row in rows(results, "attempts"):
        numbers.setdefault(row["stage_id"], []).append(row["attempt"])
    assert all(sorted(found) == list(range(1, len(found) + 1)) for found in numbers.values()), numbers
    now, then = status(results), status(whole)
    assert now["problems"] == []
    assert windows(results) == windows(whole)
    energy = [row for row in rows(results, "energy") if row["stage_id"]]
    lost_j = sum(row["energy_j"] for row in energy) - now["useful_energy_j"]
    if unread := [row for row in rows(results, "attempts") if row["energy_j"] is None]:
        # Its meter was killed before the first heartbeat of the attempt: nobody can say what it took.
        assert {row["reason"].partition(":")[0] for row in unread} == {"MeterLost"}
        assert now["lost_energy_j"] is None
    else:
        assert now["lost_energy_j"] == pytest.approx(lost_j, abs=1e-6)
    assert list(results.glob("ledger/*.json")) == []
    assert [path for path in results.glob("checkpoints/**/*") if path.is_file()] == []
    return now, then


def tell(case, where, story, findings, check):
    """Run the case and check it; whatever comes out is a finding."""
    finding = Finding(name(case), where, [f"{each.point} #{each.n}" for each in case], [each.victim for each in case])
    findings.append(finding)
    try:
        for interruption in case:
            story.launch(interruption)
        story.finish()
        finding.launches = len(story.launches)
        check(finding)
    except Exception as problem:
        story.machine.renew()  # so that the next case is not judged by this one
        raise AssertionError(f"{problem}\n{story.told}") from problem
    finding.passed = True


def check_sweep(case, story, results, whole):
    def check(finding):
        finding.wasted_steps = sum(launch.steps for launch in story.launches) - STEPS
        finding.back_s = next((e.first_step_s for e in reversed(story.launches) if e.first_step_s), None)
        assert not story.survivors()
        assert "0 to run" in story.launch().output
        assert_same(results, whole)
        now, then = assert_accounted_for(results, whole)
        finding.lost_j, finding.uninterrupted_j = now["lost_energy_j"], then["useful_energy_j"]
        assert finding.wasted_steps <= len(case) * (EVERY + 1)

    return check


@pytest.mark.parametrize("case", parameters(ON_ONE_MACHINE, REPRESENTATIVE))
def test_a_sweep_that_is_killed_ends_as_one_that_was_not(case, home, machine, whole, findings):
    results = home / name(case).replace(" ", "-")
    story = Story(home, ["run", "mine.yaml", "--results", results], machine)
    tell(case, "one machine", story, findings, check_sweep(case, story, results, whole))


@pytest.mark.parametrize("case", parameters(ON_A_CLUSTER, REPRESENTATIVE_ON_A_CLUSTER))
def test_a_sweep_on_a_cluster_survives_its_hosts(case, home, cluster, whole, findings):
    results = home / f"cluster-{name(case)}".replace(" ", "-")
    asked = ["run", "cluster.yaml", "--address", cluster.address, "--results", results]
    story = Story(home, asked, cluster)
    tell(case, "cluster", story, findings, check_sweep(case, story, results, whole))


@pytest.mark.parametrize("point", COMPACTION)
def test_a_compaction_that_is_killed_loses_nothing(point, home, machine, whole, findings):
    results = home / point
    shutil.copytree(whole, results)
    case = (Interruption(point, "command"),)
    story = Story(home, ["compact", results], machine)

    def check(finding):
        assert_same(results, whole)
        finding.wasted_steps = 0
        finding.lost_j, finding.uninterrupted_j = (status(each)["lost_energy_j"] for each in (results, whole))
        assert status(results)["problems"] == []
        assert finding.lost_j == finding.uninterrupted_j

    tell(case, "compaction", story, findings, check)

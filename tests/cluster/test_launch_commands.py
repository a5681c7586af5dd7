"""energyaware cluster slurm, kuberay, wait: defaults from the sweep file, and bad input in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.loaded import loaded_by

SWEEP = """
precisions: bf16
resources: {resources}
{more}
"""
GPUS = "{workers: 8, device: cuda, cpus_per_worker: 2}"
COMMAND = Path(sys.executable).with_name("energyaware")


@pytest.fixture
def write(tmp_path):
    def write(resources=GPUS, more=""):
        (tmp_path / "tickets.yaml").write_text(SWEEP.format(resources=resources, more=more))

    write()
    return write


def ask(folder, *arguments, check=0):
    done = subprocess.run(
        [COMMAND, "cluster", *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done.stdout if check == 0 else done.stderr


def directives(script):
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_slurm_is_asked_for_what_one_trial_needs(write, tmp_path):
    asked = directives(ask(tmp_path, "slurm", "tickets.yaml"))
    assert (asked["nodes"], asked["gpus-per-node"], asked["cpus-per-task"]) == ("1", "8", "16")
    assert "exclusive" in asked
    asked = directives(ask(tmp_path, "slurm", "tickets.yaml", "--nodes", 3, "--share-nodes"))
    assert (asked["nodes"], asked["gpus-per-node"], asked["cpus-per-task"]) == ("3", "3", "6")
    assert "exclusive" not in asked


def test_nodes_of_the_sweep_file_count(write, tmp_path):
    write("{workers: 8, nodes: 4, device: cuda}")
    assert directives(ask(tmp_path, "slurm", "tickets.yaml"))["nodes"] == "4"
    write("{workers: 2, inference_workers: 3, device: cpu}")
    asked = directives(ask(tmp_path, "slurm", "tickets.yaml"))
    assert asked["cpus-per-task"] == "3"
    assert "gpus-per-node" not in asked


def test_the_script_goes_into_a_file_with_absolute_paths(write, tmp_path):
    assert ask(tmp_path, "slurm", "tickets.yaml", "--results", "out", "-o", "job.sh") == ""
    script = (tmp_path / "job.sh").read_text()
    assert f"sweep={tmp_path}/tickets.yaml\nresults={tmp_path}/out\n" in script
    assert f'export PATH={COMMAND.parent}:"$PATH"' in script
    assert "results=s3://bucket/x\n" in ask(tmp_path, "slurm", "tickets.yaml", "--results", "s3://bucket/x")


def test_the_rayjob_has_the_sweep_and_its_results_on_the_volume(write, tmp_path):
    write(resources="{workers: 2}", more="model: /shared/models/mine")
    options = ("--image", "me/energyaware:1", "--gpus-per-node", 2, "--claim", "results")
    config_map, ray_job = yaml.safe_load_all(ask(tmp_path, "kuberay", "tickets.yaml", *options))
    sweep = yaml.safe_load(config_map["data"]["sweep.yaml"])
    assert sweep["model"] == [{"folder": "/shared/models/mine"}]
    assert sweep["resources"]["device"] == "cuda"
    assert sweep["results"] == "/shared/results/tickets"
    assert "--results /shared/results/tickets " in ray_job["spec"]["entrypoint"]
    (tmp_path / "again.yaml").write_text(config_map["data"]["sweep.yaml"])
    assert ask(tmp_path, "slurm", "again.yaml")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["slurm", "nothing.yaml"], "error: nothing.yaml: no such file"),
        (
            ["slurm", "tickets.yaml", "--gpus-per-node", "1"],
            "error: --gpus-per-node: 1: one trial is 8 workers with 1 each",
        ),
        (
            ["slurm", "tickets.yaml", "--nodes", "2", "--cpus-per-node", "7"],
            "error: --cpus-per-node: 7: one trial is 8 work",
        ),
        (["slurm", "tickets.yaml", "--time", "soon"], "error: --time: 'soon' is none: 90 is minutes"),
        (["slurm", "tickets.yaml", "--partition", "a b"], "error: --partition: 'a b' is none"),
        (["slurm", "tickets.yaml", "-o", "no/where"], "error: --output: no/where: cannot be written: No such file"),
        (["slurm", "tickets.yaml", "--nodes", "0"], "error: Invalid value for '--nodes'"),
        (["kuberay", "tickets.yaml"], "error: Missing option '--image'"),
        (["kuberay", "tickets.yaml", "--image", "a b"], "error: --image: 'a b' cannot be used: such as"),
        (["kuberay", "tickets.yaml", "--image", "a"], "error: --claim: is missing: '/shared/results/tickets' is on"),
        (["kuberay", "tickets.yaml", "--image", "a", "--memory-per-node", "x"], "error: --memory-per-node: 'x' cannot"),
        (["wait", "nothing.yaml"], "error: nothing.yaml: cannot be read: "),
        (["wait", "2", "--address", "127.0.0.1:9"], "error: --address: 127.0.0.1:9: nobody answers"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(write, tmp_path, options, problem):
    said = ask(tmp_path, *options, check=2)
    assert said.startswith(problem)
    assert len(said.splitlines()) == 1


def test_gpus_that_cannot_be_known_are_asked_for(write, tmp_path):
    write(resources="{workers: 2}")
    assert "--gpus-per-node: must be given (0 for none), or resources.device" in ask(
        tmp_path, "slurm", "tickets.yaml", check=2
    )
    assert directives(ask(tmp_path, "slurm", "tickets.yaml", "--gpus-per-node", 2))["gpus-per-node"] == "2"
    assert "gpus-per-node" not in directives(ask(tmp_path, "slurm", "tickets.yaml", "--gpus-per-node", 0))


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ("model: ./mine", "model[0].folder"),
        ("data: tickets.jsonl", "data.path"),
        ("data: {train: /shared/a.csv, test: b.csv}", "data.test"),
        ("calibration: {path: texts.csv}", "calibration.path"),
    ],
)
def test_what_pods_do_not_see_is_refused(write, tmp_path, more, field):
    write(more=more)
    said = ask(tmp_path, "kuberay", "tickets.yaml", "--image", "a", "--claim", "results", check=2)
    assert said.startswith(f"error: tickets.yaml: {field}: pods do not see {tmp_path}/")


@pytest.mark.parametrize("name", ["slurm", "kuberay", "wait"])
def test_help_has_an_example(name, tmp_path):
    assert f"Example: energyaware cluster {name}" in ask(tmp_path, name, "--help")


def test_writing_files_loads_neither_ray_nor_torch(write, tmp_path):
    code = """
from sweep.cli import app
for command in (["slurm"], ["kuberay", "--image", "a", "--claim", "b"]):
    app(["cluster", command[0], "tickets.yaml", *command[1:]], standalone_mode=False)
"""
    loaded = loaded_by(code, cwd=tmp_path)
    assert "cluster.launch" in loaded
    assert not {"ray", "torch"} & loaded

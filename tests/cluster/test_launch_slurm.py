"""The sbatch script: its text, that shells take it, and that nothing that is given becomes code in it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.launch.slurm import SlurmJob, sbatch_script

GOLDEN = Path(__file__).parent / "golden" / "slurm.sh"
JOB = {
    "name": "tickets",
    "sweep_file": "/home/me/tickets.yaml",
    "results": "/shared/tickets",
    "environment": "/home/me/venv/bin",
    "nodes": 2,
    "cpus_per_node": 16,
    "gpus_per_node": 4,
    "time": "12:00:00",
    "partition": "gpu,gpu-long",
}
HOSTILE = [
    "$(touch oops)",
    "`touch oops`",
    "'; touch oops; '",
    '"; touch oops; "',
    "two\nlines\n#SBATCH --nodes=9",
    "with space & $HOME * ? [a] \\ ~",
    "-rf",
    "ü 漢",
]


def test_the_script_is_the_golden_one():
    assert sbatch_script(SlurmJob(**JOB)) == GOLDEN.read_text()


def test_what_is_not_asked_for_is_not_in_it():
    script = sbatch_script(SlurmJob(**JOB | {"gpus_per_node": 0, "time": None, "partition": None, "exclusive": False}))
    directives = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert not [line for line in directives if any(name in line for name in ("gpus", "time", "partition", "exclusive"))]
    assert "#SBATCH --nodes=2" in directives


@pytest.mark.parametrize("hostile", HOSTILE)
def test_paths_stay_text(hostile, tmp_path):
    names = ("sweep_file", "results", "environment")
    script = sbatch_script(SlurmJob(**JOB | dict.fromkeys(names, f"/x/{hostile}") | {"name": hostile}))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    header, settings, _ = script.split("\n\n", 2) if "\n" not in hostile else parts(script)
    assert all(line.startswith("#") for line in header.splitlines())
    assert header.count("#SBATCH --nodes") == 1
    told = subprocess.run(
        ["bash", "-c", f'{settings}\nprintf "%s\\0" "$sweep" "$results" "${{PATH%:/usr/bin:/bin}}"'],
        env={"PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split("\0")[:3] == [f"/x/{hostile}"] * 3
    assert not list(tmp_path.iterdir())


def parts(script):
    header, rest = script.split("\n\n", 1)
    settings, body = rest.split("\n\nset -euo pipefail", 1)
    return header, settings, body


@pytest.mark.parametrize("time", ["90", "30:00", "12:00:00", "2-0", "2-12:30", "2-12:30:00"])
def test_time_is_what_sbatch_takes(time):
    assert f"#SBATCH --time={time}\n" in sbatch_script(SlurmJob(**JOB | {"time": time}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time", "tomorrow"),
        ("time", "1:2:3:4"),
        ("time", "12:00\n#SBATCH --nodes=9"),
        ("time", ""),
        ("time", "٣"),
        ("partition", "gpu --wrap=x"),
        ("partition", "gpu\n#SBATCH --nodes=9"),
        ("partition", "gpu,"),
        ("partition", ""),
    ],
)
def test_what_sbatch_would_misread_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"^{field}: .+ is none: .+$"):
        SlurmJob(**JOB | {field: value})


def test_a_linter_of_shell_finds_nothing():
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck on this machine")
    done = subprocess.run(["shellcheck", str(GOLDEN)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

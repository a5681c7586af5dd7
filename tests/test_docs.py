"""Reference pages follow from the code; commands in the documentation run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (energyaware .+)$", README, re.MULTILINE)

TINY = {
    "precisions: [fp32, bf16, int8, nf4]": "precisions: [bf16, nf4]",
    r"epochs: \d+": "steps: 4",
    "min_window_s: 1": "min_window_s: 0.1, test_examples: 16",
}
"""Makes the quickstart quick enough for a test; everything else in it stays."""


def generated():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import generate
    finally:
        sys.path.pop(0)
    return generate


@pytest.mark.parametrize("name", ["tables.md", "sweep-file.md", "support.md"])
def test_reference_pages_are_up_to_date(name):
    assert (ROOT / "docs" / name).read_text() == generated().PAGES[name](), "run python docs/generate.py"


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_names_every_command():
    from sweep.cli import app

    named = {shlex.split(command)[1] for command in COMMANDS}
    assert named == {command.name or command.callback.__name__ for command in app.registered_commands}


def test_the_readmes_sweep_file_is_one(tmp_path):
    from sweep.sweep_file import load

    example = tmp_path / "example.yaml"
    example.write_text(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])
    sweep = load(example)
    assert ("bf16", "nf4") in [pair for choice in sweep.precisions for pair in choice.pairs()]
    assert {kind for choice in sweep.prunings for kind in choice.kind} == {"none", "wanda", "neurons", "sparsegpt"}


def test_the_examples_of_the_sweep_files_page_are_what_they_say(tmp_path):
    from energyaware.spec import Calibration
    from sweep.sweep_file import load

    example = tmp_path / "example.yaml"
    example.write_text(generated().EXAMPLES)
    sweep = load(example)
    assert [len(list(choice.pairs())) for choice in sweep.precisions] == [1, 2]
    assert [len(list(choice.prunings(Calibration()))) for choice in sweep.prunings] == [1, 2 * 3 * 2, 1, 1]


@pytest.mark.end_to_end
@pytest.mark.timeout(900)
def test_the_readmes_commands_run_in_a_fresh_environment(tmp_path):
    """Installs the light base into a new environment: most work there, without ray and torch."""
    clone = tmp_path / "clone"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in tracked.stdout.splitlines():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    quickstart = clone / "examples" / "quickstart.yaml"
    text = quickstart.read_text()
    for pattern, small in TINY.items():
        assert re.search(pattern if "\\" in pattern else re.escape(pattern), text), pattern
        text = re.sub(pattern if "\\" in pattern else re.escape(pattern), small, text)
    quickstart.write_text(text)

    fresh = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", fresh], check=True)
    subprocess.run([fresh / "bin" / "python", "-m", "pip", "install", "--quiet", clone], check=True)
    installed = subprocess.run(
        [fresh / "bin" / "python", "-m", "pip", "list", "--format", "freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not re.search(r"^(ray|torch|transformers)=", installed, re.MULTILINE)

    def run(command, programs):
        environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(
            command, shell=True, cwd=clone, env=environment, capture_output=True, text=True, check=False
        )

    with_extras = Path(sys.executable).parent
    for command in COMMANDS:
        needs_report = shlex.split(command)[1] in {"report", "figures", "statistics"}
        needs_run = shlex.split(command)[1] in {"run", "resume", "meters"}
        done = run(command, with_extras if needs_run or needs_report else fresh / "bin")
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip(), command
        if needs_report:
            refused = run(command, fresh / "bin")
            assert refused.returncode == 2, command
            assert "energyaware[report]" in refused.stderr


def test_run_without_the_run_extra_says_what_to_install():
    code = """
import sys
sys.modules["ray"] = None  # as where it is not installed
sys.argv = ["energyaware", "run", "examples/quickstart.yaml", "--results", sys.argv[1]]
from sweep.cli import main
main()
"""
    import tempfile

    with tempfile.TemporaryDirectory() as results:
        done = subprocess.run(
            [sys.executable, "-c", code, results], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: ray is not installed: pip install 'energyaware[run]'"

"""The command that draws figures: what it writes, what it refuses, and what it needs for that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.figures import TITLES
from tests.analysis.builders import Lab
from tests.analysis.drawn import marks, text
from tests.loaded import loaded_by

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    lab = Lab(tmp_path_factory.mktemp("figures") / "results")
    lab.finetune()
    lab.inference("a", energy=1.0, precision="fp32")
    lab.inference("b", energy=0.5, precision="nf4", quality={"root_cause": {"accuracy": 0.7}})
    lab.results()
    return lab.folder


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweep", "figures", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_a_file_per_figure_and_says_what_it_leaves_out(folder, tmp_path):
    ended = command(folder, "-o", "deep/pictures", "--weight", 0.25, "--theme", "dark", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    written = sorted(file.name for file in (tmp_path / "deep/pictures").iterdir())
    assert written == [
        "break_even.svg",
        "lost.svg",
        "pareto.svg",
        "precision.svg",
        "quality.svg",
        "ranking.svg",
        "weights.svg",
    ]
    assert "left out: energy_loss: no finished fine-tuning has an epoch" in ended.stdout
    assert len(ended.stdout.splitlines()) == len(TITLES)
    svg = (tmp_path / "deep/pictures/ranking.svg").read_text()
    assert "R = 0.25 phi + 0.75 rho" in " ".join(text(svg))
    assert marks(svg, "mark-rect") == 4


def test_an_older_picture_of_what_is_left_out_now_is_named(folder, tmp_path):
    (tmp_path / "energy_loss.svg").write_text("of another sweep")
    ended = command(folder, "-o", tmp_path, "--only", "energy_loss", cwd=tmp_path)
    assert ended.stdout.endswith(f"; {tmp_path / 'energy_loss.svg'} is of an earlier call\n")


def test_the_command_writes_pixels_of_the_figures_that_are_asked_for(folder, tmp_path):
    ended = command(folder, "-o", tmp_path, "--only", "pareto", "--only", "quality", "--format", "png", cwd=tmp_path)
    assert ended.stdout.split() == [str(tmp_path / "pareto.png"), str(tmp_path / "quality.png")]
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "paretto"], "figures: only: 'paretto' is not allowed: one of ranking, pareto"),
        (["--stage", "zz", "--only", "power"], "figures: stage: 'zz' is no finished stage of these results"),
        (["--weight", "2", "--only", "pareto"], "weight: 2.0 is not allowed"),
        (["--metric", "x"], "'--metric': 'x' is not one of 'request', 'token'"),
        (["-o", "/dev/null", "--only", "lost"], "--output: /dev/null: is no folder"),
        (["-o", "/dev/null/pictures", "--only", "lost"], "--output: /dev/null/pictures: Not a directory"),
    ],
)
def test_what_is_asked_wrongly_is_one_line_and_writes_nothing(folder, tmp_path, arguments, said):
    ended = command(folder, *arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [".", "figures", "stages/figures", "nothing/../figures"])
def test_the_command_writes_nothing_into_the_results(folder, tmp_path, place):
    held = sorted(folder.rglob("*"))
    ended = command(folder, "-o", folder / place, "--only", "lost", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (
        2,
        f"error: --output: {folder / place}: lies in the results folder {folder}, which is only read here\n",
    )
    assert sorted(folder.rglob("*")) == held


def test_a_figure_that_is_a_link_into_the_results_is_not_followed(folder, tmp_path):
    (tmp_path / "lost.svg").symlink_to(folder / "plan.parquet")
    plan = (folder / "plan.parquet").read_bytes()
    ended = command(folder, "-o", tmp_path, "--only", "lost", cwd=tmp_path)
    assert ended.returncode == 2
    assert "lost.svg: lies in the results folder" in ended.stderr
    assert (folder / "plan.parquet").read_bytes() == plan


def test_without_the_extra_the_command_says_what_to_install(folder):
    code = (
        "import sys\nsys.modules['altair'] = None\nsys.argv[1:] = ['figures', sys.argv[1]]\n"
        "from sweep.cli import main\nmain()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (2, "error: figures: needs altair: pip install 'energyaware[report]'\n")


def test_nothing_that_draws_is_loaded_before_figures_are_asked_for():
    loaded = loaded_by("import analysis.figures")
    assert "analysis.figures" in loaded
    assert not {"altair", "vl_convert", "pandas", "torch", "ray"} & loaded


def test_figures_of_several_folders_are_drawn_as_of_one(folder, tmp_path):
    other = Lab(tmp_path / "other")
    other.inference("c", energy=0.7, precision="int8", needs=None)
    other.results()
    ended = command(folder, other.folder, "-o", tmp_path / "pictures", "--only", "ranking", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    said = text((tmp_path / "pictures/ranking.svg").read_text())
    for name in ("fp32", "nf4", "int8"):
        assert any(name in line for line in said)

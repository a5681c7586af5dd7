"""The command that writes the report, and what it needs for that."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis.builders import Lab
from tests.analysis.report_sweep import sweep
from tests.loaded import loaded_by

pytest_plugins = "tests.analysis.report_page"

ROOT = Path(__file__).parents[2]


def energyaware(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweep", *words],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_the_file_and_tells_its_path_and_size(read, tmp_path):
    lab = sweep(tmp_path / "results")
    lab.results()
    page = tmp_path / "page.html"
    done = energyaware("report", str(lab.folder), "-o", str(page), "--requests", "5000")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(page))}: \d\.\d MiB\n", done.stdout)
    reader = read(page.read_text(encoding="utf-8"))
    assert "w = 0.7" in reader.says("h1")  # of the sweep file
    command = shlex.split(reader.page.locator("pre").first.inner_text())
    assert command[:5] == ["energyaware", "report", str(lab.folder), "-o", str(page)]
    assert energyaware(*command[1:]).returncode == 0


def test_several_folders_make_one_page(read, tmp_path):
    for name in ("one", "other"):
        lab = Lab(tmp_path / name)
        lab.inference(f"of-{name}", needs=None, precision=name)
        lab.results()
        (lab.folder / "sweep.yaml").write_text(f"name: {name}\n")
    page = tmp_path / "page.html"
    done = energyaware("report", str(tmp_path / "one"), str(tmp_path / "other"), "-o", str(page))
    assert (done.returncode, done.stderr) == (0, "")
    reader = read(page.read_text(encoding="utf-8"))
    assert sorted(reader.column("ranking", "configuration")) == ["bf16→one", "bf16→other"]
    assert "one, other" in reader.page.title()
    assert reader.page.locator("#reproduce ~ pre").count() == 3


def test_the_command_refuses_in_one_line_what_it_cannot_do(tmp_path):
    lab = sweep(tmp_path / "results", seeds=1)
    lab.results()
    away = energyaware("report", str(lab.folder), "-o", str(tmp_path / "away" / "x.html"))
    assert (away.returncode, away.stderr.count("\n")) == (2, 1)
    assert "No such file or directory" in away.stderr
    nothing = energyaware("report", str(tmp_path), "-o", str(tmp_path / "x.html"))
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("place", ["report.html", "stages/inference/report.html"])
def test_a_page_is_not_written_into_the_results(tmp_path, place):
    lab = sweep(tmp_path / "results", seeds=1)
    lab.results()
    held = sorted(lab.folder.rglob("*"))
    done = energyaware("report", str(lab.folder), "-o", str(lab.folder / place))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{place}: lies in the results folder {lab.folder}" in done.stderr
    assert sorted(lab.folder.rglob("*")) == held


WITHOUT = """
import sys
sys.modules["{missing}"] = None  # as if it were not installed
from analysis import load
from analysis.report import report
from energyaware.errors import InputError
try:
    report(load(sys.argv[1]))
except InputError as problem:
    print(problem)
"""


@pytest.mark.parametrize("missing", ["jinja2", "markupsafe", "altair", "vl_convert", "statsmodels"])
def test_a_library_that_is_not_installed_is_named_with_what_to_install(tmp_path, missing):
    lab = Lab(tmp_path / "results")
    lab.inference("a", needs=None)
    lab.results()
    code = WITHOUT.format(missing=missing)
    found = subprocess.run(
        [sys.executable, "-c", code, str(lab.folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f": needs {missing}: pip install 'energyaware[report]'" in found.stdout


def test_a_report_loads_neither_ray_nor_torch(tmp_path):
    lab = Lab(tmp_path / "results")
    lab.inference("a", needs=None)
    lab.results()
    code = (
        "import sys, sweep.cli_report; from analysis import load; from analysis.report import report; "
        "report(load(sys.argv[1]))"
    )
    loaded = loaded_by(code, lab.folder)
    assert "altair" in loaded
    assert not {"ray", "torch", "transformers"} & loaded

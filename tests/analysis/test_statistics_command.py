"""Statistics as a table, as JSON and as CSV; the command that prints them, and what it needs for that."""

import csv
import io
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from analysis.statistics import RESPONSES, statistics
from analysis.statistics.show import as_json, as_table
from sweep.cli_statistics import Asked
from sweep.options import app
from tests.analysis.builders import Lab
from tests.analysis.factorial import factorial, inference
from tests.loaded import loaded_by


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def printed(found, width=80):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(as_table(found))
    return console.file.getvalue()


def test_hostile_names_of_levels_stay_text(lab):
    for number, (precision, seed) in enumerate(product(("fp32", "[red]x[/red]\x1b[31m'\"\\+C(y)"), range(3))):
        inference(lab, number, precision, seed=seed, energy=1.0 + number / 10)
    found = statistics(lab.results(), ["energy"])
    text = printed(found, 200)
    assert "[red]x[/red]\N{REPLACEMENT CHARACTER}[31m'\"\\+C(y) takes" in text
    assert "\x1b" not in text


def test_the_table_fits_80_columns(lab):
    factorial(lab)
    text = printed(statistics(lab.results()))
    assert max(map(len, text.splitlines())) <= 80
    assert "precision x pruning" in text
    assert "< 0.0001" in text


def test_the_command_prints_json_and_csv(lab):
    factorial(lab)
    lab.results()
    asked = ["statistics", str(lab.folder), "--response", "energy", "--response", "quality"]
    found = CliRunner().invoke(app, [*asked, "--format", "json"])
    content = json.loads(found.stdout, parse_constant=pytest.fail)
    assert content.keys() == {"notes", "effects", "correlations", "assumptions"}
    assert {row["response"] for row in content["effects"]} == {"energy", "quality"}
    rows = list(csv.DictReader(io.StringIO(CliRunner().invoke(app, [*asked, "--format", "csv"]).stdout)))
    assert [row["term"] for row in rows] == [row["term"] for row in content["effects"]]
    assert CliRunner().invoke(app, ["statistics", str(lab.folder), "--all"]).exit_code == 0


WITHOUT = """
import sys, analysis.statistics
sys.modules["statsmodels"] = None
from energyaware.errors import InputError
try:
    analysis.statistics.statistics(None)
except InputError as problem:
    print(problem)
"""


def test_nothing_heavy_is_loaded_before_it_is_needed():
    loaded = loaded_by("import analysis.statistics, sweep.cli_statistics")
    assert "analysis.statistics.answer" in loaded
    assert not {"ray", "torch", "scipy", "statsmodels", "pandas"} & loaded


def test_what_is_missing_is_said_in_one_line():
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == "statistics: needs statsmodels: pip install 'energyaware[report]'\n"


def test_the_command_knows_every_response():
    assert [one.value for one in Asked] == list(RESPONSES)


def test_json_is_strict_where_nothing_can_be_told(lab):
    inference(lab, 0, energy=1.0)
    inference(lab, 1, "nf4", energy=2.0)
    content = json.loads(as_json(statistics(lab.results())), parse_constant=pytest.fail)
    assert all(row["p"] is None for row in content["effects"])

"""The examples of docs/extending.md do what the page says: one file, one entry, and the new name works everywhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with what the page adds."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("analysis", "cluster", "energyaware", "sweep", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    criterion, pruning_entry, precision_entry = BLOCKS
    (root / "energyaware" / "pruning" / "ria.py").write_text(criterion)
    pruners, precisions = (root / "energyaware" / part / "__init__.py" for part in ("pruning", "precision"))
    pruners.write_text(
        pruners.read_text()
        .replace('    "none": KeepAll(),\n', '    "none": KeepAll(),\n' + pruning_entry)
        .replace(
            "from typing import Final\n", "from typing import Final\n\nfrom energyaware.pruning.ria import Ria\n", 1
        )
    )
    precisions.write_text(precisions.read_text().replace('    "int8": ', precision_entry + '    "int8": ', 1))
    return root


def run(root, *command):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_shows_a_criterion_in_ten_lines():
    body = BLOCKS[0].partition("class ")[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= 10


def test_the_new_names_are_allowed_in_a_sweep_file(extended):
    (extended / "sweep.yaml").write_text("precisions: [bf16, int8-t4]\nprunings: [none, ria-50%, ria-2:4]\n")
    plan = run(extended, "-c", "from sweep.cli import main; main()", "plan", "sweep.yaml")
    assert plan.count("ria-2:4") == plan.count("ria-50%") == 2
    assert "infeasible" not in plan


@pytest.mark.timeout(600)
def test_the_new_names_pass_the_contracts_by_being_registered(extended):
    output = run(
        extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_contracts.py", "-k", "ria or int8-t4"
    )
    assert re.search(r"\d+ passed", output)
    assert "failed" not in output
    run(extended, "-m", "pytest", "-q", "tests/test_combinations.py", "-k", "gpt2-ria-bf16 or t5-wanda-int8-t4")

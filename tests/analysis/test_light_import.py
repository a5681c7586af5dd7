import os
import subprocess
import sys
from pathlib import Path

from tests.analysis.builders import Lab

ROOT = Path(__file__).parents[2]

RANK = """
import sys, analysis, analysis.watch
from analysis.show import as_csv, as_json
results = analysis.load(sys.argv[1])
answer = analysis.answer(results)
assert answer.rows.height == 1
as_json(answer), as_csv(answer), analysis.query(results, "SELECT * FROM ranking"), analysis.status(results)
print(*sorted(name for name in sys.modules if "." not in name))
"""


def test_ranking_loads_neither_ray_nor_torch_nor_pandas(tmp_path):
    lab = Lab(tmp_path)
    lab.inference("a", needs=None)
    lab.results()
    loaded = subprocess.run(
        [sys.executable, "-c", RANK, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {"analysis", "polars", "energyaware"} <= set(loaded)
    assert not {"ray", "torch", "pandas", "transformers", "cluster", "sweep"} & set(loaded)


def test_of_energyaware_only_rows_and_errors_are_imported():
    code = "import sys, analysis; print(*(name for name in sys.modules if name.startswith('energyaware.')))"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert sorted(loaded) == ["energyaware.errors", "energyaware.rows"]

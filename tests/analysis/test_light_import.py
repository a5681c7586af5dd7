from tests.analysis.builders import Lab
from tests.loaded import loaded_by

RANK = """
import sys, analysis, analysis.watch
from analysis.show import as_csv, as_json
results = analysis.load(sys.argv[1])
answer = analysis.answer(results)
assert answer.rows.height == 1
as_json(answer), as_csv(answer), analysis.query(results, "SELECT * FROM ranking"), analysis.status(results)
"""


def test_ranking_loads_neither_ray_nor_torch_nor_pandas(tmp_path):
    lab = Lab(tmp_path)
    lab.inference("a", needs=None)
    lab.results()
    loaded = loaded_by(RANK, tmp_path)
    assert {"analysis", "polars", "energyaware"} <= loaded
    assert not {"ray", "torch", "pandas", "transformers", "cluster", "sweep"} & loaded


def test_of_energyaware_only_rows_and_errors_are_imported():
    loaded = loaded_by("import analysis")
    assert sorted(name for name in loaded if name.startswith("energyaware.")) == [
        "energyaware.errors",
        "energyaware.rows",
    ]

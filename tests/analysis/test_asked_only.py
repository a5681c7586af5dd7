"""Values that were dropped from the sweep file: their rows stay, and count where one says so."""

from pathlib import Path

import pytest

from analysis import answer, left_out, query, ranking, status
from tests.analysis.builders import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Two configurations that are asked for, and two that were: one finished, one without its quality."""
    lab = Lab(tmp_path / "results")
    for name, energy in {"a": 2.0, "b": 4.0, "dropped": 1.0, "bad": None}.items():
        lab.inference(name, precision=name, needs=None, energy=energy)
    lab.plan = [row for row in lab.plan if row["stage_id"] in {"a", "b"}]
    return lab


def test_only_what_is_asked_for_is_ranked_and_counted(lab):
    results = lab.results()
    rows = ranking(results).collect()
    assert (rows["precision"].to_list(), rows["phi"].to_list()) == (["a", "b"], [1.0, 0.0])
    assert results.stages.collect().height == 4
    assert status(results).counts["inference"]["finished"] == 2
    assert left_out(results).collect().is_empty()
    note = "finished stages that are not in the plan: 2, not compared; --all ranks them too"
    assert note in answer(results).notes


def test_all_that_is_finished_is_ranked_where_one_says_so(lab):
    results = lab.results()
    rows = ranking(results, asked_only=False).collect()
    assert (rows["precision"].to_list(), rows["phi"].to_list()) == (["dropped", "a", "b"], [1.0, 2 / 3, 0.0])
    assert left_out(results, asked_only=False).collect()["stage_id"].to_list() == ["bad"]
    shown = answer(results, asked_only=False)
    assert (shown.rows.height, shown.left_out.height) == (3, 1)
    assert "finished stages that are not in the plan: 2, compared all the same" in shown.notes
    sql = "SELECT precision FROM ranking ORDER BY rank"
    assert query(results, sql, asked_only=False)["precision"].to_list() == ["dropped", "a", "b"]
    assert query(results, sql)["precision"].to_list() == ["a", "b"]

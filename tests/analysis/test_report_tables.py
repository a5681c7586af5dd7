"""Words and tables of the report, without a browser."""

import pytest

from analysis import answer
from analysis.report.failed import left_out_table, progress
from analysis.report.sections import key_figures
from tests.analysis.builders import Lab


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    for precision, energy in (("fp32", 2.0), ("nf4", 1.0)):
        lab.inference(precision, needs=None, energy=energy, precision=precision, carbon_g_per_kwh=400.0 * energy)
    return lab


def test_the_change_is_that_of_what_is_ranked_by(lab):
    results = lab.results()
    shown = {
        metric: {figure.name: figure.value for figure in key_figures(answer(results, metric=metric), results.status())}
        for metric in ("request", "carbon")
    }
    assert shown["request"]["Change of energy per request"] == "50 % less"
    assert shown["carbon"]["Change of carbon per request"] == "75 % less"


def test_who_is_left_out_is_named_by_its_precisions_its_stage_and_its_model_where_these_differ(lab):
    for model in ("a", "b"):
        lab.inference(f"left-{model}", model=model, precision="nf4", finetune_precision="bf16", run=False)
        lab.infeasible(f"left-{model}", "nf4 needs a GPU")
    table = left_out_table(lab.results().left_out().collect())
    assert [column.heading for column in table.columns] == [
        *["precision", "pruning", "applied", "model", "seed", "state", "why", "stage"]
    ]
    assert [[row[at].text for at in (0, 7, 3)] for row in table.rows] == [
        ["bf16\N{RIGHTWARDS ARROW}nf4", f"left-{model}", model] for model in ("a", "b")
    ]


def test_where_all_failed_the_page_says_so_first(tmp_path):
    lab = Lab(tmp_path)
    lab.inference("a", needs=None, run=False)
    lab.infeasible("a", "needs a GPU")
    assert progress(lab.results().status()).startswith("No stage is finished, and nothing is left to do")

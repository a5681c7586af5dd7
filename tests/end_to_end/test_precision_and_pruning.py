"""The grid as a user runs it: precisions of training and serving apart, every way of pruning, as real processes."""

import json

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tests.end_to_end.test_own_model_and_data import energyaware, rows
from tests.own_data import COLUMNS, save_tickets
from tests.tiny import FAMILIES_TINY

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

SWEEP = """
model: [./llama, ./t5]
data: {{path: tickets.jsonl, columns: {columns}}}
precisions: {{finetune: bf16, inference: [bf16, nf4]}}
prunings:
- none
- {{kind: wanda, pattern: 2:4, layers: {{"*.0.*": none}}}}
- {{kind: sparsegpt, sparsity: 0.5, applied: before}}
- {{kind: neurons, sparsity: 0.5, applied: before}}
- layers-50%
calibration: {{examples: 12}}
finetune: {{method: {method}, steps: 4, batch_size: 8, sequence_length: 64, lora: {{rank: 4}}, zero_stage: {zero}}}
inference: {{batch_size: 4, max_new_tokens: 4, min_window_s: 0.1, repeats: 1, test_examples: 8}}
resources: {{workers: 2, cpus_per_worker: 0.5, device: cpu}}
"""


@pytest.fixture(scope="module", params=[("lora", 0), ("full", 3)], ids=["lora", "full-zero-3"])
def results(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("user")
    for family in ("llama", "t5"):
        FAMILIES_TINY[family](home / family)
    save_tickets(home / "tickets.jsonl")
    method, zero = request.param
    (home / "grid.yaml").write_text(SWEEP.format(columns=json.dumps(COLUMNS), method=method, zero=zero))
    energyaware("run", "grid.yaml", cwd=home)
    return home / "results" / "grid"


def stages(results, **wanted):
    return [row for row in rows(results, "stages") if all(row[name] == value for name, value in wanted.items())]


def test_fine_tunings_are_shared_by_the_precisions_they_are_served_in(results):
    assert len(stages(results, kind="finetune")) == 2 * (1 + 2)
    inferences = stages(results, kind="inference")
    assert len(inferences) == 2 * 5 * 2
    assert {(row["finetune_precision"], row["precision"]) for row in inferences} == {("bf16", "bf16"), ("bf16", "nf4")}
    assert {row["model_family"] for row in inferences} == {"llama", "t5"}


def test_rows_say_what_was_loaded(results):
    for row in stages(results, kind="inference"):
        in_nf4 = row["precision"] == "nf4"
        assert row["storage"] == ("nf4" if in_nf4 else "bfloat16")
        assert row["compute"] == "bfloat16"
        assert row["skipped_layers"] == []
        assert row["quantised_layers"] == (row["eligible_layers"] if in_nf4 else 0)
        assert row["quantised_share"] == (1.0 if in_nf4 else 0.0)
        assert ("nf4" in json.loads(row["bytes_by_dtype"])) == in_nf4
        assert sum(json.loads(row["bytes_by_dtype"]).values()) == row["weight_bytes"]


def test_prunings_are_what_they_say(results):
    for row in rows(results, "stages"):
        kind = row["pruning"].partition("-")[0]
        assert row["realisation"] == {"none": "none", "neurons": "physical", "layers": "physical"}.get(
            kind, "simulated"
        ), row["pruning"]
        if kind == "wanda":
            assert row["pruning"] == "wanda-2:4*"
            assert 0 < row["sparsity_achieved"] < 0.5
            assert row["sparsity_achieved"] == pytest.approx(row["sparsity_target"])
            assert 0 < row["pruned_layers"] < row["eligible_layers"]
        elif kind != "none":
            assert row["sparsity_achieved"] == pytest.approx(0.5, abs=1e-3)
        assert (row["structures"] is not None) == (row["realisation"] == "physical")
    dense, small = (stages(results, kind="inference", pruning=name, model="llama") for name in ("none", "neurons-50%"))
    assert small[0]["parameters"] < dense[0]["parameters"]
    assert json.loads(small[0]["structures"])["neurons"][0] * 2 == json.loads(small[0]["structures"])["neurons"][1]


def test_calibration_is_a_window_of_its_own_with_seed_and_hash(results):
    energy = rows(results, "energy")
    for row in rows(results, "stages"):
        windows = {part["window"] for part in energy if part["stage_id"] == row["stage_id"]}
        was_pruned_here = row["pruning"] != "none" and (row["pruning_applied"] == "after" or row["kind"] == "finetune")
        assert ("calibrate" in windows) == was_pruned_here
        assert (row["calibration_hash"] is not None) == (row["pruning"] != "none")
        if row["pruning"] != "none":
            assert row["calibration_examples"] == 12
            assert row["calibration_tokens"] > 12
            assert row["calibration_seed"] == 0


def test_simulated_prunings_borrow_their_dense_parents_energy_and_physical_ones_do_not(results):
    answer = json.loads(energyaware("rank", results, "--format", "json", cwd=results).stdout)
    assert len(answer["rows"]) == 20, answer["left_out"]
    dense = {
        (row["model"], row["precision"]): row["energy_j_per_request"]
        for row in stages(results, kind="inference", pruning="none")
    }
    for row in answer["rows"]:
        own = stages(
            results,
            kind="inference",
            pruning=row["pruning"],
            model=row["model"],
            precision=row["precision"],
        )[0]["energy_j_per_request"]
        simulated = row["realisation"] == "simulated"
        assert row["energy_from"] == ("dense parent" if simulated else "own")
        finetune_share = row["finetune_energy_j"] / 10_000
        used = dense[row["model"], row["precision"]] if simulated else own
        assert row["energy_j_per_request"] == pytest.approx(used + finetune_share)


def test_what_is_physically_smaller_reloads_in_plain_transformers(results):
    for row in stages(results, kind="finetune", pruning="neurons-50%"):
        folder = results / "artifacts" / row["stage_id"]
        plain = folder if row["finetune_method"] == "full" else folder / "base"
        kind = AutoModelForSeq2SeqLM if row["model_family"] == "t5" else AutoModelForCausalLM
        assert kind.from_pretrained(plain).num_parameters() == row["parameters"]


def test_the_plan_names_both_precisions(results):
    table = energyaware("plan", results / "sweep.yaml", cwd=results.parents[1]).stdout
    assert "bf16→nf4" in table
    assert pq.read_table(results / "plan.parquet").num_rows == 26

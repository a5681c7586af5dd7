"""A simulated pruning is ranked with the energy of its dense parent, a real one with its own."""

from pathlib import Path

import pytest

from analysis import answer
from tests.analysis.builders import Lab
from tests.analysis.ranked import ranked


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")


def test_simulated_pruning_is_ranked_with_the_energy_of_its_dense_parent(lab):
    on_cpu = {"device": "cpu", "device_name": "EPYC"}
    lab.finetune(energy_j=1000.0, **on_cpu)
    lab.inference("dense", energy=2.0, device="cpu", device_name="Xeon")
    pruned = {"pruning": "magnitude-50%", "pruning_applied": "after"} | on_cpu
    lab.inference("pruned", energy=1.0, realisation="simulated", carbon_g_per_kwh=100.0, **pruned)
    lab.inference("other", energy=1.5, precision="nf4", **on_cpu)
    rows = {row["stage_ids"][0]: row for row in ranked(lab)}
    assert rows["pruned"]["energy_from"] == "dense parent"
    assert rows["pruned"]["energy_j_per_request"] == pytest.approx(2.1)
    assert rows["pruned"]["own_energy_j_per_request"] == 1.0
    # 2 J at the parent's 360 g/kWh, 0.1 J at that of the fine-tuning
    assert rows["pruned"]["carbon_g_per_request"] == pytest.approx(2.1e-4)
    assert rows["pruned"]["phi"] == rows["dense"]["phi"] == 0.0
    assert rows["pruned"]["devices"] == ["cpu EPYC", "cpu Xeon"]
    assert rows["dense"]["energy_from"] == rows["other"]["energy_from"] == "own"


def test_simulated_pruning_before_fine_tuning_keeps_its_own_fine_tuning_energy(lab):
    lab.finetune("ft", energy_j=1000.0)
    lab.finetune("ft-pruned", energy_j=3000.0, pruning="magnitude-50%", pruning_applied="before")
    lab.inference("dense", energy=2.0)
    pruned = {"pruning": "magnitude-50%", "pruning_applied": "before", "realisation": "simulated"}
    lab.inference("pruned", needs="ft-pruned", energy=1.0, **pruned)
    rows = {row["stage_ids"][0]: row for row in ranked(lab, requests=1000)}
    assert rows["pruned"]["energy_from"] == "dense parent"
    assert rows["pruned"]["energy_j_per_request"] == pytest.approx(2.0 + 3.0)


def test_the_dense_parent_may_be_one_that_the_plan_no_longer_asks_for(lab):
    lab.inference("dense", needs=None, energy=2.0)
    lab.inference("pruned", needs=None, energy=1.0, pruning="m", pruning_applied="after", realisation="simulated")
    lab.plan = [row for row in lab.plan if row["stage_id"] != "dense"]
    (row,) = ranked(lab)
    assert (row["energy_from"], row["energy_j_per_request"]) == ("dense parent", 2.0)


def test_without_a_dense_parent_simulated_pruning_keeps_its_own_energy_and_says_so(lab):
    lab.inference("dense", needs=None, precision="nf4", energy=2.0)
    lab.inference("pruned", needs=None, energy=1.0, pruning="m", pruning_applied="after", realisation="simulated")
    rows = {row["stage_ids"][0]: row for row in ranked(lab)}
    assert rows["pruned"]["energy_from"] == "own (no dense parent)"
    assert rows["pruned"]["energy_j_per_request"] == 1.0
    assert any(note.startswith("** simulated") for note in answer(lab.results()).notes)


def test_a_row_with_its_parents_energy_names_the_devices_of_both(lab):
    lab.inference("dense", needs=None, energy=2.0, device="cpu", device_name="Xeon")
    pruned = {"pruning": "m", "pruning_applied": "after", "realisation": "simulated"}
    lab.inference("pruned", needs=None, energy=1.0, device="cpu", device_name="EPYC", **pruned)
    rows = {row["stage_ids"][0]: row for row in ranked(lab)}
    assert rows["pruned"]["devices"] == ["cpu EPYC", "cpu Xeon"]
    assert rows["dense"]["devices"] == ["cpu Xeon"]
    assert rows["dense"]["mixed_devices"]


def test_real_sparsity_keeps_its_own_energy(lab):
    lab.inference("dense", needs=None, energy=2.0)
    pruned = {"pruning": "magnitude-2:4", "pruning_applied": "after", "realisation": "semi-structured-kernel"}
    lab.inference("pruned", needs=None, energy=1.0, **pruned)
    assert ranked(lab)[0]["energy_from"] == "own"
    assert ranked(lab)[0]["energy_j_per_request"] == 1.0

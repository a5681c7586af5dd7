"""Marked windows, net joules and cost in the ranking."""

from pathlib import Path

import pytest

from analysis import answer, left_out, ranking
from energyaware.errors import InputError
from tests.analysis.builders import Lab

HOT = "implausible: mean 912 W over the limit of 700 W"
PRUNED = {"pruning": "m", "pruning_applied": "after", "realisation": "simulated"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")


def ranked(lab: Lab, **options) -> dict[str, dict]:
    return {row["stage_ids"][0]: row for row in ranking(lab.results(), **options).collect().to_dicts()}


def reasons(lab: Lab, **options) -> dict[str, tuple[str, str]]:
    rows = left_out(lab.results(), **options).collect().to_dicts()
    return {row["stage_id"]: (row["state"], row["reason"]) for row in rows}


def notes(lab: Lab) -> list[str]:
    return [note for note in answer(lab.results()).notes if "marked" in note]


@pytest.mark.parametrize("window", ["prefill", "decode"])
def test_an_implausible_window_leaves_the_stage_out(lab, window):
    lab.inference("good", precision="A", needs=None)
    lab.inference("bad", precision="B", needs=None, marks=["decode: short", f"{window}: {HOT}"])
    assert list(ranked(lab)) == ["good"]
    assert reasons(lab) == {"bad": ("incomplete", f"{window} is {HOT}")}
    assert notes(lab) == []


def test_an_implausible_window_that_is_not_ranked_does_no_harm(lab):
    lab.inference("a", needs=None, marks=[f"evaluate: {HOT}", "evaluate: short"])
    assert ranked(lab)["a"]["marks"] == []
    assert reasons(lab) == {}


def test_an_implausible_window_of_a_fine_tuning_leaves_out_all_that_start_from_it(lab):
    lab.finetune("ft", marks=[f"train: {HOT}"])
    lab.finetune("sound", marks=["train: short"])
    lab.inference("a", precision="A", needs="ft")
    lab.inference("b", precision="B", needs="sound")
    assert list(ranked(lab)) == ["b"]
    assert reasons(lab) == {"a": ("incomplete", f"train is {HOT} (fine-tuning ft)")}


def test_other_marks_are_noted_by_kind(lab):
    lab.finetune("ft", marks=["train: short", "train: shared: 2 other processes"])
    lab.inference("a", precision="A", marks=["decode: short"])
    lab.inference("b", precision="B", marks=["prefill: throttled: thermal, sw power cap"])
    lab.inference("c", precision="C", needs=None, marks=None)
    lab.inference("d", precision="D", needs=None, marks=["decode: disagrees: counter 9 J, sampled power 5 J"])
    assert notes(lab) == [
        "! marked: 1 configuration has disagreeing windows (decode)",
        "! marked: 2 configurations have shared windows (train)",
        "! marked: 2 configurations have short windows (decode, train)",
        "! marked: 1 configuration has throttled windows (prefill)",
    ]
    rows = ranked(lab)
    assert rows["a"]["marks"] == ["decode: short", "train: shared: 2 other processes", "train: short"]
    assert rows["c"]["marks"] == []


def test_a_simulated_pruning_carries_the_marks_of_its_dense_parent(lab):
    lab.inference("dense", needs=None, energy=2.0, marks=["decode: short"])
    lab.inference("pruned", needs=None, energy=1.0, **PRUNED)
    assert ranked(lab)["pruned"]["marks"] == ["decode: short"]


def test_nobody_borrows_an_implausible_energy(lab):
    lab.inference("dense", needs=None, energy=2.0, marks=[f"decode: {HOT}"])
    lab.inference("pruned", needs=None, energy=1.0, **PRUNED)
    assert ranked(lab)["pruned"]["energy_from"] == "own (no dense parent)"


def test_net_joules_are_those_beyond_idle_of_inference_and_fine_tuning(lab):
    lab.finetune(energy_j=1000.0, energy_net_j=600.0)
    lab.inference("a", energy=2.0, energy_net_j_per_request=0.5)
    row = ranked(lab, requests=1000, energy="net")["a"]
    assert row["energy_j_per_request"] == pytest.approx(0.5 + 0.6)
    assert row["carbon_g_per_request"] == pytest.approx(1.1e-4)
    assert ranked(lab, requests=1000)["a"]["energy_j_per_request"] == pytest.approx(3.0)


def test_net_joules_that_are_unknown_or_impossible_leave_the_stage_out(lab):
    lab.finetune(energy_net_j=None)
    lab.inference("a", precision="A", needs=None, energy_net_j_per_request=-0.5)
    lab.inference("b", precision="B", energy_net_j_per_request=0.5)
    lab.inference("c", precision="C", needs=None)
    assert reasons(lab, energy="net") == {
        "a": ("incomplete", "net energy per request is -0.5 J"),
        "b": ("incomplete", "net energy of fine-tuning is unknown (fine-tuning ft)"),
        "c": ("incomplete", "net energy per request is unknown"),
    }
    assert len(ranked(lab)) == 3
    with pytest.raises(InputError, match=r"energy.*one of gross, net"):
        ranking(lab.results(), energy="brutto")


def test_a_simulated_pruning_borrows_the_net_joules_of_its_dense_parent(lab):
    lab.inference("dense", needs=None, energy=2.0, energy_net_j_per_request=1.5)
    lab.inference("pruned", needs=None, energy=1.0, energy_net_j_per_request=0.7, **PRUNED)
    assert ranked(lab, energy="net")["pruned"]["energy_j_per_request"] == 1.5


PRICED = {"price_per_kwh": 0.36, "pue": 1.5, "currency": "EUR"}


def test_cost_is_that_of_all_joules_with_pue(lab):
    lab.finetune(energy_j=1000.0, **PRICED)
    lab.inference("a", energy=2.0, **PRICED)
    lab.inference("b", precision="B", energy=2.0, needs=None, **PRICED)
    rows = ranked(lab, requests=1000)
    # 0.36 a kWh is 1e-7 a joule, 1.5e-7 with PUE
    assert (rows["a"]["cost_per_request"], rows["a"]["currency"]) == (pytest.approx(4.5e-7), "EUR")
    assert rows["b"]["cost_per_request"] == pytest.approx(3e-7)


@pytest.mark.parametrize("other", [{}, PRICED | {"currency": "USD"}, PRICED | {"pue": None}])
def test_cost_is_unknown_where_that_of_a_part_is_or_currencies_differ(lab, other):
    lab.finetune(energy_j=1000.0, **other)
    lab.inference("a", energy=2.0, **PRICED)
    assert ranked(lab)["a"]["cost_per_request"] is None


def test_a_simulated_pruning_costs_what_its_dense_parent_does(lab):
    lab.inference("dense", needs=None, energy=2.0, **PRICED)
    lab.inference("pruned", needs=None, energy=1.0, **PRUNED)
    row = ranked(lab)["pruned"]
    assert (row["cost_per_request"], row["currency"]) == (pytest.approx(3e-7), "EUR")

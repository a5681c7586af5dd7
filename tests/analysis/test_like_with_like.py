"""Measured joules are not ranked against estimated ones, nor all components against some, without being told to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import answer, ranking
from analysis.comparable import NotComparable
from tests.analysis.builders import Lab

ROOT = Path(__file__).parents[2]
PRUNED = {"pruning": "m", "pruning_applied": "after", "realisation": "simulated"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")


def kinds(lab: Lab, **options) -> dict[str, str]:
    rows = ranking(lab.results(), **options).collect().to_dicts()
    return {row["stage_ids"][0]: row["energy_kind"] for row in rows}


def refusal(lab: Lab) -> str:
    with pytest.raises(NotComparable) as caught:
        ranking(lab.results())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_measured_and_estimated_configurations_are_not_ranked_together_unless_that_is_allowed(lab):
    lab.inference("a", precision="A", needs=None)
    lab.inference("b", precision="B", needs=None)
    lab.inference("c", precision="C", needs=None, measured=False)
    assert "energy is measured in 2 configurations, estimated in 1; --allow-mixed" in refusal(lab)
    rows = ranking(lab.results(), allow_mixed=True).collect().to_dicts()
    assert all(row["mixed"] and row["mixed_energy"] and not row["mixed_devices"] for row in rows)
    assert [row["measured"] for row in rows] == [row["energy_kind"] == "measured" for row in rows]
    (note,) = [note for note in answer(lab.results(), allow_mixed=True).notes if note.startswith("mixed")]
    assert "measured in 2 configurations, estimated in 1" in note


@pytest.mark.parametrize(("measured", "kind"), [(True, "measured"), (False, "estimated")])
def test_what_is_alike_is_ranked_without_being_asked(lab, measured, kind):
    lab.finetune(measured=measured)
    lab.inference("a", precision="A", measured=measured)
    lab.inference("b", precision="B", measured=measured, needs=None)
    assert kinds(lab) == {"a": kind, "b": kind}
    assert not any(row["mixed"] for row in ranking(lab.results(), allow_mixed=True).collect().to_dicts())


def test_a_row_is_mixed_where_its_parts_are_of_several_kinds(lab):
    lab.finetune("estimated", measured=False)
    lab.finetune("measured", measured=True)
    lab.inference("a", precision="A", needs="estimated")
    lab.inference("b", precision="B", needs="measured")
    lab.inference("c", precision="C", needs="measured", measured=None)
    lab.inference("d0", precision="D", needs=None, seed=0)
    lab.inference("d1", precision="D", needs=None, seed=1, measured=False)
    assert kinds(lab, allow_mixed=True) == {"a": "mixed", "b": "measured", "c": "unknown", "d0": "mixed"}
    assert "mixed in 2 configurations" in refusal(lab)


def test_of_an_inference_only_prefill_and_decode_count(lab):
    lab.inference("a", needs=None, measured=False, energy_kind="mixed")
    lab.energy("a", {"window": "prefill"}, {"window": "decode"}, {"window": "other", "measured": False})
    assert kinds(lab) == {"a": "measured"}


@pytest.mark.parametrize(("window", "kind"), [("evaluate", "mixed"), ("other", "measured")])
def test_of_a_fine_tuning_all_windows_but_other_count(lab, window, kind):
    lab.finetune(measured=True)
    lab.energy("ft", {"window": "train"}, {"window": window, "measured": False})
    lab.inference("a")
    assert kinds(lab) == {"a": kind}


def test_windows_of_attempts_that_were_lost_do_not_count(lab):
    lab.inference("a", needs=None, attempt=2)
    lab.energy("a", {"measured": False}, attempt=1)
    lab.energy("a", {}, attempt=2)
    assert kinds(lab) == {"a": "measured"}


def test_energies_of_other_components_are_not_compared(lab):
    for name, components in {"a": ["cpu", "dram", "gpu"], "b": ["dram", "cpu", "gpu"], "c": ["gpu"]}.items():
        lab.inference(name, precision=name, needs=None)
        lab.energy(name, *({"component": component} for component in components))
    whole = "cpu measured + dram measured + gpu measured"
    assert f"energy is that of {whole} in 2 configurations, gpu measured in 1" in refusal(lab)
    rows = ranking(lab.results(), allow_mixed=True).collect().to_dicts()
    assert {row["stage_ids"][0]: row["made_of"] for row in rows} == {"a": whole, "b": whole, "c": "gpu measured"}
    assert all(row["mixed"] for row in rows)


def test_where_the_energy_table_is_silent_kinds_alone_are_compared(lab):
    lab.inference("a", precision="A", needs=None)
    lab.inference("b", precision="B", needs=None)
    lab.energy("a", {"component": "cpu"}, {"component": "gpu"})
    assert kinds(lab) == {"a": "measured", "b": "measured"}


def test_a_simulated_pruning_is_of_the_kind_of_its_dense_parent(lab):
    lab.inference("dense", needs=None, energy=2.0, measured=False)
    lab.inference("pruned", needs=None, energy=1.0, measured=True, **PRUNED)
    lab.energy("dense", {"measured": False})
    lab.energy("pruned", {"component": "gpu"})
    assert kinds(lab) == {"dense": "estimated", "pruned": "estimated"}
    assert {row["made_of"] for row in ranking(lab.results()).collect().to_dicts()} == {"cpu estimated"}


def rank(lab: Lab, *options: str) -> subprocess.CompletedProcess[str]:
    lab.results()
    command = [sys.executable, "-c", "from sweep.cli import main; main()", "rank", str(lab.folder), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_command_refuses_in_one_line_and_ranks_when_it_is_told_to(lab):
    lab.inference("a", precision="A", needs=None)
    lab.inference("c", precision="C", needs=None, measured=False)
    refused = rank(lab)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: ranking: not like with like: energy is measured in 1 configuration, ")
    assert refused.stderr.count("\n") == 1
    assert "--allow-mixed" in refused.stderr
    assert "mixed: energy is" in " ".join(rank(lab, "--allow-mixed").stdout.split())
    (lab.folder / "sweep.yaml").write_text("ranking: {allow_mixed: true}\n")
    assert rank(lab).returncode == 0
    assert "nothing to rank yet" in rank(lab, "--energy", "net").stdout

"""What was measured on one kind of GPU is not ranked against what was measured on another, unless that is asked for."""

import json

import pytest

from analysis import answer, ranking
from analysis.comparable import NotComparable
from tests.analysis.builders import Lab

H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"
ON_CPU = {"device": "cpu", "device_name": "EPYC"}


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "results")


def kinds(lab, **options):
    rows = ranking(lab.results(), **options).collect().to_dicts()
    return {row["stage_ids"][0]: row["gpu_kind"] for row in rows}


def on_both(lab):
    """Two configurations on each of two kinds."""
    for kind in (H100, A100):
        lab.inference(f"a-{kind[7:11]}", precision="A", needs=None, gpu_kind=kind, **ON_CPU)
        lab.inference(f"b-{kind[7:11]}", precision="B", needs=None, gpu_kind=kind, **ON_CPU)


def test_two_kinds_are_refused_in_one_line_that_says_what_to_do(lab):
    on_both(lab)
    with pytest.raises(NotComparable) as caught:
        ranking(lab.results())
    said = str(caught.value)
    assert "\n" not in said
    assert f"{A100} in 2 configurations, {H100} in 2" in said or f"{H100} in 2 configurations, {A100} in 2" in said
    assert "--gpu-kind" in said
    assert "--allow-mixed" in said


def test_one_kind_is_ranked_and_the_other_left_out_with_the_reason(lab):
    on_both(lab)
    assert kinds(lab, gpu_kind="h100") == {"a-H100": H100, "b-H100": H100}
    found = answer(lab.results(), gpu_kind="h100")
    assert set(found.left_out["reason"]) == {f"was measured on {A100}, not on h100"}
    assert found.left_out.height == 2


def test_all_are_ranked_where_that_is_allowed_and_the_rows_say_so(lab):
    on_both(lab)
    assert set(kinds(lab, allow_mixed=True).values()) == {H100, A100}
    rows = ranking(lab.results(), allow_mixed=True).collect()
    assert rows["mixed"].all()
    assert any(H100 in note and A100 in note for note in answer(lab.results(), allow_mixed=True).notes)


def test_a_fine_tuning_on_another_kind_is_a_mix_too(lab):
    lab.finetune("on-h100", gpu_kind=H100)
    lab.finetune("on-a100", gpu_kind=A100)
    lab.inference("a", precision="A", needs="on-h100", gpu_kind=H100)
    lab.inference("b", precision="B", needs="on-a100", gpu_kind=H100)
    with pytest.raises(NotComparable, match=f"{H100}, fine-tuned on {A100} in 1"):
        ranking(lab.results())
    assert kinds(lab, gpu_kind="H100") == {"a": H100}


def test_seeds_of_one_configuration_on_two_kinds_are_a_mix(lab):
    lab.inference("a0", precision="A", needs=None, seed=0, gpu_kind=H100)
    lab.inference("a1", precision="A", needs=None, seed=1, gpu_kind=A100)
    lab.inference("b", precision="B", needs=None, gpu_kind=H100)
    with pytest.raises(NotComparable, match=f"{H100} in 2 configurations, {A100} in 1"):
        ranking(lab.results())


def test_a_simulated_pruning_does_not_take_the_energy_of_a_parent_on_another_kind(lab):
    lab.inference("dense", needs=None, energy=2.0, gpu_kind=A100)
    pruned = {"pruning": "m", "pruning_applied": "after", "realisation": "simulated"}
    lab.inference("pruned", needs=None, energy=1.0, gpu_kind=H100, **pruned)
    (row,) = ranking(lab.results(), gpu_kind="H100").collect().to_dicts()
    assert (row["energy_from"], row["energy_j_per_request"]) == ("own (no dense parent)", 1.0)


def test_rows_of_an_older_schema_are_of_the_kind_that_they_computed_on(lab):
    """Schema 4 had no column for it, but named what the workers computed on."""
    lab.inference("old", precision="A", needs=None, device="cuda", device_name=H100, schema_version=4)
    lab.inference("new", precision="B", needs=None, device="cuda", device_name=A100, gpu_kind=A100)
    lab.inference("cpu", precision="C", needs=None, **ON_CPU)
    with pytest.raises(NotComparable, match="--gpu-kind"):
        ranking(lab.results())
    assert kinds(lab, gpu_kind="A100") == {"new": A100}
    assert kinds(lab, allow_mixed=True)["cpu"] is None


def test_without_gpus_nothing_is_said_of_them(lab):
    lab.inference("a", precision="A", needs=None, **ON_CPU)
    lab.inference("b", precision="B", needs=None, energy=2.0, **ON_CPU)
    assert kinds(lab) == {"a": None, "b": None}
    assert not any("GPU" in note or "mixed" in note for note in answer(lab.results()).notes)


def test_kinds_are_matched_as_they_are_written_not_as_patterns(lab):
    lab.inference("a", precision="A", needs=None, gpu_kind=H100)
    assert kinds(lab, gpu_kind="H.00") == {}
    (left,) = answer(lab.results(), gpu_kind="H.00").left_out.to_dicts()
    assert json.dumps(left["reason"]) == json.dumps(f"was measured on {H100}, not on H.00")

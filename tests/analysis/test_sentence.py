"""What configurations are called, and the answer in one sentence."""

from pathlib import Path

import pytest

from analysis import answer
from tests.analysis.builders import Lab

PRUNED = {"pruning": "heads-25%", "realisation": "physical"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")


def accuracy(value: float) -> dict:
    return {"root_cause": {"accuracy": value}}


def add(lab: Lab, precision: str, energy: float, quality: float, *, seeds: int = 1, **more) -> None:
    """A configuration, run under some seeds that hardly differ."""
    for seed in range(seeds):
        name = "-".join([precision, *map(str, more.values()), str(seed)]).replace("%", "")
        named = {"precision": precision, "finetune_precision": precision, "needs": None, "seed": seed}
        varied = {"energy": energy * (1 + 0.01 * seed), "quality": accuracy(quality + 0.01 * seed)}
        lab.inference(name, **named, **varied, **more)


def names(lab: Lab) -> list[str]:
    found = answer(lab.results())
    return [found.labels[configuration] for configuration in found.rows["configuration"]]


def said(lab: Lab, **options) -> str:
    return answer(lab.results(), **options).sentence


def test_a_label_says_precision_and_pruning(lab):
    add(lab, "bf16", 1.0, 0.9)
    add(lab, "nf4", 2.0, 0.8, pruning="wanda-2:4", realisation="physical", pruning_applied="after")
    lab.inference("c", precision="nf4", finetune_precision="bf16", needs=None, energy=3.0, quality=accuracy(0.7))
    assert names(lab) == ["bf16", "nf4 + wanda-2:4", "bf16→nf4"]


def test_a_label_says_only_what_differs_beside_them(lab):
    add(lab, "bf16", 1.0, 0.9, model="small")
    add(lab, "bf16", 2.0, 0.8, model="large")
    add(lab, "bf16", 3.0, 0.7, model="large", pruning_applied="after", **PRUNED)
    add(lab, "bf16", 4.0, 0.6, model="large", pruning_applied="before", **PRUNED)
    assert names(lab) == [
        "bf16 (small)",
        "bf16 (large)",
        "bf16 + heads-25% after tuning (large)",
        "bf16 + heads-25% before tuning (large)",
    ]


def test_where_all_tuning_is_of_one_method_only_what_is_not_tuned_says_so(lab):
    lab.inference("tuned", needs=lab.finetune(), energy=1.0)
    lab.inference("base", needs=None, energy=2.0)
    assert names(lab) == ["bf16", "bf16 (not tuned)"]
    lab.inference("full", needs=lab.finetune("whole", finetune_method="full"), finetune_method="full", energy=3.0)
    assert names(lab) == ["bf16 (lora)", "bf16 (not tuned)", "bf16 (full)"]


def test_of_models_their_name_is_said_and_a_revision_only_where_one_model_has_several(lab):
    for number, model in enumerate(["meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B"]):
        lab.inference(f"m{number}", needs=None, energy=1.0 + number, model=model, model_revision=f"{number}" * 40)
    assert names(lab) == ["bf16 (Llama-3.1-8B)", "bf16 (Mistral-7B)"]
    lab.inference("newer", needs=None, energy=3.0, model="mistralai/Mistral-7B", model_revision="a" * 40)
    assert names(lab)[1:] == ["bf16 (Mistral-7B, 11111111)", "bf16 (Mistral-7B, aaaaaaaa)"]
    lab.inference("fork", needs=None, energy=4.0, model="mine/Mistral-7B", model_revision="b" * 40)
    assert names(lab)[3] == "bf16 (mine/Mistral-7B, bbbbbbbb)"


def test_revisions_that_are_names_are_said_whole(lab):
    for number, revision in enumerate(["step1000", "step10000", "step143000"]):
        model = {"model": "EleutherAI/pythia-70m", "model_revision": revision}
        lab.inference(f"m{number}", needs=None, energy=1.0 + number, **model)
    assert names(lab) == ["bf16 (step1000)", "bf16 (step10000)", "bf16 (step143000)"]


def test_no_two_labels_are_alike(lab):
    for batch in ("1", "8"):
        lab.inference(f"batch-{batch}", needs=None, settings=f'{{"batch": {batch}}}')
    assert len(set(names(lab))) == 2
    found = answer(lab.results())
    assert all(label == f"bf16 [{name[:8]}]" for name, label in found.labels.items())


def test_the_sentence_holds_the_best_against_the_dense_baseline_of_the_highest_precision(lab):
    # E = 4 and 1: 75 % less; rho = 0.9 and 0.85: 5 points
    add(lab, "fp32", 4.0, 0.9)
    add(lab, "bf16", 2.0, 0.6)
    add(lab, "nf4", 1.0, 0.85)
    assert said(lab) == (
        "nf4 is the best of 3 at w = 0.5: compared with dense fp32 it has 75 % less energy per request (1 against 4 J) "
        "and 5.0 points less quality (0.850 against 0.900); how sure that is, what was measured cannot tell."
    )


def test_without_a_dense_one_the_most_accurate_is_the_baseline(lab):
    add(lab, "bf16", 2.0, 0.9, **PRUNED)
    add(lab, "nf4", 1.0, 0.9, **PRUNED)
    add(lab, "int8", 3.0, 0.95, **PRUNED)
    compared = (
        "compared with int8 + heads-25%, the most accurate one, it has 67 % less energy per request (1 against 3 J)"
    )
    assert compared in said(lab)


def test_a_baseline_of_the_same_model_is_preferred(lab):
    add(lab, "fp32", 8.0, 0.5, model="other")
    add(lab, "bf16", 2.0, 0.9, model="mine")
    add(lab, "nf4", 1.0, 0.9, model="mine")
    compared = (
        "compared with dense bf16 (mine) it has 50 % less energy per request (1 against 2 J) and the same quality"
    )
    assert compared in said(lab)


def test_a_baseline_that_is_itself_the_best_is_held_against_the_next(lab):
    add(lab, "fp32", 1.0, 0.9)
    add(lab, "nf4", 2.0, 0.8)
    assert said(lab).startswith(
        "fp32 is the best of 2 at w = 0.5: it is the baseline itself; compared with it nf4, the next, has 100 % more "
        "energy per request (2 against 1 J) and 10.0 points less quality (0.800 against 0.900);"
    )


def test_a_tie_is_said_as_a_tie(lab):
    # phi = 1, 0.5, 0 and rho = 0.1, 0.6, 0.2: R = 0.55, 0.55, 0.1
    add(lab, "nf4", 1.0, 0.1)
    add(lab, "bf16", 2.0, 0.6)
    add(lab, "fp32", 3.0, 0.2)
    assert said(lab).startswith(
        "bf16 and nf4 share the first place of 3 at w = 0.5: compared with dense fp32, bf16 has 33 %"
    )


def test_of_a_tie_with_the_baseline_the_baseline_is_named(lab):
    add(lab, "bf16", 1.0, 0.8)
    add(lab, "nf4", 1.0, 0.8)
    assert said(lab).startswith(
        "bf16 and nf4 share the first place of 2 at w = 0.5: bf16 is the baseline itself; compared with it nf4 has "
        "the same energy per request (1 against 1 J) and the same quality;"
    )


def test_estimated_energy_is_called_so(lab):
    add(lab, "fp32", 2.0, 0.9, measured=False)
    add(lab, "nf4", 1.0, 0.9, measured=False)
    assert "50 % less estimated energy per request" in said(lab)
    add(lab, "bf16", 1.5, 0.9)
    assert "50 % less estimated energy per request" in said(lab, allow_mixed=True)


def test_half_measured_energy_is_called_partly_estimated(lab):
    add(lab, "fp32", 2.0, 0.9)
    add(lab, "nf4", 1.0, 0.9, measured=False)
    assert "50 % less partly estimated energy per request" in said(lab, allow_mixed=True)


def test_the_sentence_names_the_metric(lab):
    priced = {"price_per_kwh": 0.36, "pue": 1.0, "currency": "EUR"}
    add(lab, "fp32", 2.0, 0.9, **priced)
    add(lab, "nf4", 1.0, 0.9, **priced)
    assert "50 % less carbon per request (0.0001 against 0.0002 g CO2e)" in said(lab, metric="carbon")
    assert "50 % less cost per request (1e-07 against 2e-07 EUR)" in said(lab, metric="cost")
    assert "50 % less energy per correct answer (1.11 against 2.22 J)" in said(lab, metric="correct")


def test_how_sure_it_is_comes_from_resampling(lab):
    add(lab, "fp32", 4.0, 0.9, seeds=3)
    add(lab, "nf4", 1.0, 0.85, seeds=3)
    assert said(lab).endswith("; it stays the best in every resampling of what was measured.")


def test_who_cannot_be_told_apart_from_the_best_is_named(lab):
    add(lab, "fp32", 4.0, 0.5, seeds=3)
    for seed, (one, two) in enumerate([(0.80, 0.82), (0.84, 0.80), (0.82, 0.83)]):
        common = {"needs": None, "seed": seed, "energy": 1.0 + 0.01 * seed}
        lab.inference(f"a{seed}", precision="nf4", finetune_precision="nf4", quality=accuracy(one), **common)
        lab.inference(f"b{seed}", precision="int8", finetune_precision="int8", quality=accuracy(two), **common)
    assert said(lab).startswith("nf4 is the best of 3")
    assert said(lab).endswith("% of resamplings of what was measured, and cannot be told apart from int8.")


def test_one_alone_and_none(lab):
    lab.inference("later", run=False)
    assert said(lab) == "Nothing can be ranked yet."
    add(lab, "bf16", 3.0, 0.6)
    assert said(lab) == "bf16 is the only configuration that can be ranked: 3 J of energy per request, quality 0.600."

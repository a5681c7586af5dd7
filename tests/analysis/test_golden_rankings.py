"""Whole rankings, worked by hand: R = w phi + (1 - w) rho, phi of the chosen metric, E = J + J tuning / requests."""

import math

import pytest

from analysis.load import Results
from analysis.ranking import left_out, ranking
from energyaware.errors import InputError
from energyaware.rows import Row
from tests.analysis.builders import Lab
from tests.analysis.frames import finetuning, grades, inference, results_of, window

GRID = {"carbon_g_per_kwh": 360.0, "price_per_kwh": 0.36, "pue": 1.0, "currency": "EUR"}
SIMULATED = {"pruning": "m", "pruning_applied": "after", "realisation": "simulated"}


def lab(*stages: tuple[Row, float | None], tuned: tuple[Row, ...] = (), energy: tuple[Row, ...] = ()) -> Results:
    """Results of inferences, each with its accuracy."""
    quality = [row for stage, value in stages for row in grades(stage["stage_id"], {"root_cause": {"accuracy": value}})]
    return results_of(stages=[*tuned, *(stage for stage, _ in stages)], quality=quality, energy=list(energy))


def order(results: Results, **options) -> list[tuple[int, str, float]]:
    """Rank, precision and R of each row."""
    rows = ranking(results, **options).collect()
    return [
        (rank, name, round(score, 9)) for rank, name, score in rows.select("rank", "precision", "score").iter_rows()
    ]


@pytest.fixture(scope="module")
def worked() -> Results:
    """Three precisions; nf4 was fine-tuned at 4,000 J, the others at 1,000 J.

    |      | J    | J tuning | seconds         | tokens | accuracy | g/kWh | EUR/kWh |
    |------|------|----------|-----------------|--------|----------|-------|---------|
    | fp32 | 8    | 1,000    | 0.5 + 1.5 = 2   | 64     | 0.9      | 360   | 0.36    |
    | bf16 | 4    | 1,000    | 0.5 + 0.5 = 1   | 64     | 0.8      | 720   | 0.18    |
    | nf4  | 1    | 4,000    | 1.0 + 4.0 = 5   | 128    | 0.5      | 360   | 0.72    |

    Over 1,000 requests E = 9, 5, 5.
    """
    tuned = (
        finetuning("ft-fp32", 1000.0, **GRID),
        finetuning("ft-bf16", 1000.0, **GRID | {"carbon_g_per_kwh": 720.0, "price_per_kwh": 0.18}),
        finetuning("ft-nf4", 4000.0, **GRID | {"price_per_kwh": 0.72}),
    )
    dear, cheap = GRID | {"price_per_kwh": 0.72}, GRID | {"carbon_g_per_kwh": 720.0, "price_per_kwh": 0.18}
    stages = (
        (inference("fp32", 8.0, needs="ft-fp32", precision="fp32", **GRID), 0.9),
        (inference("bf16", 4.0, needs="ft-bf16", precision="bf16", **cheap), 0.8),
        (inference("nf4", 1.0, needs="ft-nf4", precision="nf4", prompt_tokens=1140, **dear), 0.5),
    )
    seconds = {"fp32": (0.5, 1.5), "bf16": (0.5, 0.5), "nf4": (1.0, 4.0)}
    energy = tuple(
        window(name, phase, 1.0, duration_s=10 * of_one)
        for name, phases in seconds.items()
        for phase, of_one in zip(("prefill", "decode"), phases, strict=True)
    )
    return lab(*stages, tuned=tuned, energy=energy)


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        # phi = (9 - E) / 4 = 0, 1, 1: R = 0.45, 0.9, 0.75
        ("request", [9.0, 5.0, 5.0], [(1, "bf16", 0.9), (2, "nf4", 0.75), (3, "fp32", 0.45)]),
        # 9/64, 5/64, 5/128: phi = 0, (9 - 5) / (9 - 2.5) = 8/13, 1: R = 0.45, 0.4 + 4/13, 0.75
        ("token", [9 / 64, 5 / 64, 5 / 128], [(1, "nf4", 0.75), (2, "bf16", 0.4 + 4 / 13), (3, "fp32", 0.45)]),
        # 9/0.9 = 10, 5/0.8 = 6.25, 5/0.5 = 10: phi = 0, 1, 0: R = 0.45, 0.9, 0.25
        ("correct", [10.0, 6.25, 10.0], [(1, "bf16", 0.9), (2, "fp32", 0.45), (3, "nf4", 0.25)]),
        # 9 J * 2 s, 5 J * 1 s, 5 J * 5 s: phi = 7/20, 1, 0: R = 0.45 + 0.175, 0.9, 0.25
        ("edp", [18.0, 5.0, 25.0], [(1, "bf16", 0.9), (2, "fp32", 0.625), (3, "nf4", 0.25)]),
        # 1e-4 g/J, 2e-4, 1e-4: 9e-4, 10e-4, 5e-4: phi = 1/5, 0, 1: R = 0.55, 0.4, 0.75
        ("carbon", [9e-4, 10e-4, 5e-4], [(1, "nf4", 0.75), (2, "fp32", 0.55), (3, "bf16", 0.4)]),
        # 1e-7 EUR/J, 5e-8, 2e-7: 9e-7, 2.5e-7, 10e-7: phi = 1/7.5, 1, 0: R = 0.45 + 1/15, 0.9, 0.25
        ("cost", [9e-7, 2.5e-7, 10e-7], [(1, "bf16", 0.9), (2, "fp32", 0.45 + 1 / 15), (3, "nf4", 0.25)]),
    ],
)
def test_each_metric_ranks_as_worked_by_hand(worked, metric, values, expected):
    rows = ranking(worked, requests=1000, metric=metric).collect()
    by_precision = dict(rows.select("precision", "ranked_by").iter_rows())
    assert [by_precision[name] for name in ("fp32", "bf16", "nf4")] == pytest.approx(values)
    assert order(worked, requests=1000, metric=metric) == [
        (rank, name, round(score, 9)) for rank, name, score in expected
    ]


def test_ratio_ranks_as_worked_by_hand(worked):
    # phi = 5/9, 1, 1: R at w = 0.5 is 0.45 + 5/18, 0.9, 0.75
    assert order(worked, requests=1000, phi="ratio") == [
        (1, "bf16", 0.9),
        (2, "nf4", 0.75),
        (3, "fp32", round(0.45 + 5 / 18, 9)),
    ]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        # E = 1008, 1004, 4001: phi = 2993/2997, 1, 0
        (1, [(1, "fp32", round(0.45 + 2993 / 5994, 9)), (2, "bf16", 0.9), (3, "nf4", 0.25)]),
        # E = 8.001, 4.001, 1.004: phi = 0, 4/6.997, 1
        (1_000_000, [(1, "nf4", 0.75), (2, "bf16", round(0.4 + 2 / 6.997, 9)), (3, "fp32", 0.45)]),
    ],
)
def test_the_number_of_requests_decides_whether_a_dear_fine_tuning_pays(worked, requests, expected):
    assert order(worked, requests=requests) == expected


def test_none_and_fewer_requests_are_refused(worked):
    for requests in (0, -1):
        with pytest.raises(InputError, match=f"requests: {requests} is not allowed: a number of at least 1"):
            ranking(worked, requests=requests)


@pytest.mark.parametrize("metric", ["request", "correct"])
def test_a_third_configuration_reverses_two_others_under_minmax_for_every_metric(metric):
    a = (inference("a", 2.0, precision="A"), 0.8)
    b = (inference("b", 1.0, precision="B"), 0.5)
    c = (inference("c", 60.0, precision="C"), 0.1)

    def of_two(*stages: tuple[Row, float], phi: str) -> list[str]:
        return [name for _, name, _ in order(lab(*stages), metric=metric, phi=phi) if name != "C"]

    # request: 2, 1 and 60. phi of A is 0 without C and 58/59 with it: R = 0.4 or 0.89 against B's 0.75
    # correct: 2.5, 2 and 600. phi of A is 0 without C and 597.5/598 with it: R = 0.4 or 0.8996 against B's 0.75
    assert of_two(a, b, phi="minmax") == ["B", "A"]
    assert of_two(a, b, c, phi="minmax") == ["A", "B"]
    assert of_two(a, b, phi="ratio") == of_two(a, b, c, phi="ratio")


def test_equal_scores_of_unequal_configurations_are_a_tie():
    # phi = 1, 0.5, 0: R = 0.5 + 0.1, 0.25 + 0.35, 0 + 0.25
    results = lab(
        (inference("a", 1.0, precision="A"), 0.2),
        (inference("b", 2.0, precision="B"), 0.7),
        (inference("c", 3.0, precision="C"), 0.5),
    )
    assert order(results) == [(1, "A", 0.6), (1, "B", 0.6), (3, "C", 0.25)]


@pytest.mark.parametrize("metric", ["request", "token", "correct"])
def test_a_single_row_has_full_efficiency_in_every_metric(metric):
    assert order(lab((inference("a", 3.0, precision="A"), 0.6)), metric=metric) == [(1, "A", 0.8)]


def test_where_all_energies_are_equal_quality_decides():
    results = lab((inference("a", 3.0, precision="A"), 0.6), (inference("b", 3.0, precision="B"), 0.7))
    assert order(results) == [(1, "B", 0.85), (2, "A", 0.8)]


def test_a_simulated_pruning_differs_from_its_dense_parent_by_quality_alone():
    dense = (inference("dense", 4.0, precision="A"), 0.8)
    pruned = (inference("pruned", 1.0, precision="A", **SIMULATED), 0.7)
    other = (inference("other", 2.0, precision="B"), 0.1)
    # E = 4, 4, 2: phi = 0, 0, 1: R = 0.4, 0.35, 0.55
    assert order(lab(dense, pruned, other)) == [(1, "B", 0.55), (2, "A", 0.4), (3, "A", 0.35)]


def test_what_is_unknown_not_a_number_or_negative_is_left_out_and_moves_nobody_else():
    sound = [(inference("a", 2.0, precision="A"), 0.8), (inference("b", 1.0, precision="B"), 0.5)]
    bad = [
        (inference("none", None, precision="C"), 0.9),
        (inference("nan", math.nan, precision="D"), 0.9),
        (inference("negative", -5.0, precision="E"), 0.9),
        (inference("zero", 0.0, precision="F"), 0.9),
        (inference("ungraded", 0.5, precision="G"), None),
        (inference("nan-graded", 0.5, precision="H"), math.nan),
        (inference("over", 0.5, precision="I"), 1.1),
        (inference("untuned", 0.5, precision="J", needs="gone"), 0.9),
    ]
    everything = lab(*sound, *bad)
    assert order(everything) == order(lab(*sound)) == [(1, "B", 0.75), (2, "A", 0.4)]
    why = dict(left_out(everything).collect().select("stage_id", "reason").iter_rows())
    assert why == {
        "none": "energy per request is unknown",
        "nan": "energy per request is NaN J",
        "negative": "energy per request is -5.0 J",
        "zero": "energy per request is 0.0 J",
        "ungraded": "no quality of root_cause",
        "nan-graded": "root_cause.accuracy is NaN, not in [0, 1]",
        "over": "root_cause.accuracy is 1.1, not in [0, 1]",
        "untuned": "energy of fine-tuning is unknown (fine-tuning gone)",
    }


def test_everything_that_is_asked_for_is_ranked_or_left_out_with_a_reason(tmp_path):
    lab = Lab(tmp_path)
    lab.finetune("ft")
    for state in ("stopped", "failed", "diverged", "oom", "interrupted"):
        lab.finetune(f"ft-{state}", run=False)
        lab.attempt(f"ft-{state}", state, reason=f"it {state}")
        lab.inference(f"of-{state}", needs=f"ft-{state}", run=False)
        lab.inference(state, run=False)
        lab.attempt(state, state, reason=f"it {state}")
    lab.inference("good", precision="A")
    lab.inference("ungraded", precision="B", quality={"root_cause": {"accuracy": None}})
    lab.inference("on-another-gpu", precision="C", device_name="A100")
    lab.inference("impossible", run=False)
    lab.infeasible("impossible", "no CUDA")
    lab.inference("waiting", run=False)
    lab.inference("skipped", run=False)
    lab.plan[-1] |= {"state": "skipped", "reason": "the funnel kept others"}
    results = lab.results()
    ranked = ranking(results, gpu_kind="H200").collect()
    others = left_out(results, gpu_kind="H200").collect()
    assert [row[0] for row in ranked["stage_ids"]] == ["good"]
    states = dict(others.select("stage_id", "state").iter_rows())
    assert states == {
        **{state: state for state in ("stopped", "failed", "diverged", "oom", "interrupted")},
        **{f"of-{state}": "blocked" for state in ("failed", "diverged", "oom")},
        "of-stopped": "stopped",
        "of-interrupted": "pending",
        "skipped": "skipped",
        "ungraded": "incomplete",
        "on-another-gpu": "incomplete",
        "impossible": "infeasible",
        "waiting": "pending",
    }
    assert others["reason"].null_count() == 0
    asked = {row["stage_id"] for row in lab.plan if row["kind"] == "inference"}
    assert asked == set(states) | {"good"}

"""The energy metrics, worked by hand. E = inference + fine-tuning / requests, in joules per request."""

import math
from itertools import product
from typing import get_args

import pytest

from analysis.comparable import NotComparable
from analysis.load import Results
from analysis.metrics import METRICS, Metric
from analysis.ranking import COLUMNS, left_out, ranking
from energyaware.errors import InputError
from energyaware.rows import Row
from tests.analysis.frames import finetuning, grades, inference, results_of, window

BY_GRID = {"carbon_g_per_kwh": 360.0, "price_per_kwh": 0.36, "pue": 1.5, "currency": "EUR"}
"""1e-4 g, and 1.5e-7 EUR, of a joule."""


def accuracy(value: float) -> dict:
    return {"root_cause": {"accuracy": value}}


def lab(*stages: Row, quality: dict[str, dict] | None = None, energy: list[Row] | None = None) -> Results:
    """Results whose inferences are all right in 3 of 4 answers, or as `quality` says by stage."""
    inferences = [row["stage_id"] for row in stages if row["kind"] == "inference"]
    rows = [row for name in inferences for row in grades(name, (quality or {}).get(name, accuracy(0.75)))]
    return results_of(stages=list(stages), quality=rows, energy=energy or [])


def only(results: Results, metric: Metric, requests: int = 1000, **options) -> Row:
    (row,) = ranking(results, requests=requests, metric=metric, **options).collect().to_dicts()
    return row


def reasons(results: Results, metric: Metric, **options) -> dict[str, str]:
    return {row["stage_id"]: row["reason"] for row in left_out(results, metric=metric, **options).collect().to_dicts()}


def timed(stage_id: str, prefill_s: float, decode_s: float | None = None) -> list[Row]:
    rows = [window(stage_id, "prefill", 10.0, duration_s=prefill_s)]
    return rows + ([] if decode_s is None else [window(stage_id, "decode", 10.0, duration_s=decode_s)])


def test_every_metric_is_a_column_and_the_chosen_one_is_what_phi_is_computed_from():
    assert list(METRICS) == list(get_args(Metric))
    tuned = {"needs": "ft", **BY_GRID}
    stages = [finetuning("ft", 1000.0, **BY_GRID)]
    stages += [inference("a", 2.0, precision="A", **tuned), inference("b", 5.0, precision="B", **tuned)]
    results = lab(*stages, energy=[*timed("a", 20.0, 40.0), *timed("b", 30.0, 50.0)])
    for metric, of in METRICS.items():
        assert of.column in COLUMNS
        rows = ranking(results, requests=1000, metric=metric).collect()
        assert rows["ranked_by"].to_list() == rows[of.column].to_list()
        assert rows["phi_minmax"].to_list() == [1.0, 0.0]
        assert rows["phi_ratio"].to_list() == pytest.approx([1.0, rows["ranked_by"][0] / rows["ranked_by"][1]])


def test_per_request_is_e():
    # 2 J of inference + 1000 J of fine-tuning / 1000 requests = 3 J
    assert only(lab(finetuning("ft", 1000.0), inference("a", 2.0, needs="ft")), "request")["ranked_by"] == 3.0


def test_per_token_is_e_over_prompt_and_generated_tokens():
    # 500 prompt tokens of 10 requests + 140 generated ones of 10 = 50 + 14 = 64 tokens a request; 3 J / 64
    assert only(lab(finetuning("ft", 1000.0), inference("a", 2.0, needs="ft")), "token")["ranked_by"] == 3.0 / 64


def test_requests_of_prefill_and_of_decode_may_differ_in_number():
    # 500 / 10 + 140 / 20 = 57
    assert only(lab(inference("a", 2.85, decode_requests=20)), "token")["ranked_by"] == pytest.approx(2.85 / 57)


def test_a_task_that_generates_nothing_has_prompt_tokens_alone():
    results = lab(inference("a", 2.0, decode_requests=None, new_tokens=None))
    assert only(results, "token")["ranked_by"] == 2.0 / 50


def test_per_correct_answer_is_e_over_the_accuracy():
    # 3 J / 0.75
    assert only(lab(finetuning("ft", 1000.0), inference("a", 2.0, needs="ft")), "correct")["ranked_by"] == 4.0


def test_a_request_asks_every_task_so_its_correct_answers_add_up_and_other_metrics_do_not_count():
    quality = {
        "cause": {"accuracy": 0.75, "macro_f1": 0.1},
        "team": {"accuracy": 0.5},
        "response": {"rouge_l": 0.4},
    }
    results = lab(inference("a", 2.5, tasks=sorted(quality)), quality={"a": quality})
    # 0.75 + 0.5 correct answers of a request
    row = only(results, "correct")
    assert row["ranked_by"] == 2.0
    assert row["rho"] == pytest.approx(((0.75 + 0.1) / 2 + 0.5 + 0.4) / 3)


def test_without_an_accuracy_nothing_is_known_of_correct_answers():
    results = lab(inference("a", 2.0, tasks=["response"]), quality={"a": {"response": {"rouge_l": 0.4}}})
    assert reasons(results, "correct") == {
        "a": "energy per correct answer is unknown: none of its tasks has an accuracy"
    }
    assert only(results, "request")["energy_j_per_correct"] is None


def test_a_configuration_that_gets_nothing_right_is_left_out_and_a_seed_that_does_is_not():
    seeds = [inference("a0", 2.0, seed=0), inference("a1", 2.0, seed=1)]
    wrong = lab(*seeds, quality={"a0": accuracy(0.0), "a1": accuracy(0.0)})
    assert set(reasons(wrong, "correct").values()) == {"energy per correct answer has no bound: no answer is correct"}
    assert only(wrong, "request")["energy_j_per_correct"] is None
    # 2 J over a mean of 0.25, not over the 0.5 of the seed that gets some right
    assert only(lab(*seeds, quality={"a0": accuracy(0.0), "a1": accuracy(0.5)}), "correct")["ranked_by"] == 8.0


def test_a_missing_quality_is_named_once():
    results = lab(inference("a", 2.0), inference("b", 2.0, precision="B"), quality={"a": {"root_cause": {}}})
    assert reasons(results, "correct") == {"a": "no quality of root_cause"}


def test_edp_takes_the_seconds_of_the_slowest_node_over_all_repeats_and_each_component_once():
    energy = [
        window("a", name, 5.0, node=node, component=component, repeat=repeat, duration_s=duration_s, requests=requests)
        for (name, repeat, node), (duration_s, requests) in {
            ("prefill", 1, "n1"): (10.0, 20),
            ("prefill", 1, "n2"): (12.0, 20),  # the gang is done after 12 s
            ("prefill", 2, "n1"): (18.0, 30),
            ("prefill", 2, "n2"): (17.0, 30),
            ("decode", 1, "n1"): (40.0, 10),
            ("decode", 1, "n2"): (40.0, 10),
            ("decode", 2, "n1"): (50.0, 15),
            ("decode", 2, "n2"): (35.0, 15),
        }.items()
        for component in ("cpu", "gpu")
    ]
    # prefill (12 + 18) s / 50 requests = 0.6 s, decode (40 + 50) s / 25 requests = 3.6 s; 2 J * 4.2 s
    row = only(lab(inference("a", 2.0), energy=energy), "edp")
    assert row["seconds_per_request"] == pytest.approx(4.2)
    assert row["ranked_by"] == row["edp_js"] == pytest.approx(8.4)


def test_edp_has_the_fine_tuning_in_its_energy_and_not_in_its_time():
    results = lab(finetuning("ft", 1000.0), inference("a", 2.0, needs="ft"), energy=timed("a", 20.0, 30.0))
    # (2 + 1) J * (2 + 3) s
    assert only(results, "edp")["ranked_by"] == pytest.approx(15.0)


def test_only_windows_of_the_attempt_that_finished_are_timed():
    finishing = [row | {"attempt": 2} for row in [*timed("a", 20.0, 30.0), *grades("a", accuracy(0.75))]]
    quality, energy = finishing[2:], finishing[:2] + timed("a", 500.0, 500.0)
    results = results_of(stages=[inference("a", 2.0, attempt=2)], quality=quality, energy=energy)
    assert only(results, "edp")["seconds_per_request"] == 5.0


@pytest.mark.parametrize(
    "energy",
    [
        [],
        timed("a", 20.0),  # its decode windows are gone
        [*timed("a", 20.0), window("a", "decode", 1.0, requests=0)],
        [*timed("a", 20.0), window("a", "decode", 1.0, requests=None)],
        [*timed("a", 20.0), window("a", "decode", 1.0, duration_s=None)],
        [*timed("a", 20.0, 30.0), window("a", "decode", 1.0, duration_s=None, node="n2")],
    ],
)
def test_seconds_that_are_not_all_known_are_unknown(energy):
    results = lab(inference("a", 2.0), energy=energy)
    assert reasons(results, "edp") == {"a": "time per request is unknown"}
    assert only(results, "request")["edp_js"] is None


def test_carbon_and_cost_have_the_factors_of_their_own_stages():
    stages = [
        finetuning("ft", 1000.0, **BY_GRID | {"carbon_g_per_kwh": 720.0}),
        inference("a", 2.0, needs="ft", **BY_GRID),
    ]
    # 2 J * 1e-4 g/J + 1 J * 2e-4 g/J; 3 J * 1.5e-7 EUR/J
    assert only(lab(*stages), "carbon")["ranked_by"] == pytest.approx(4e-4)
    assert only(lab(*stages), "cost")["ranked_by"] == pytest.approx(4.5e-7)


@pytest.mark.parametrize(
    ("metric", "stage", "reason"),
    [
        ("token", {"prefill_requests": 0}, "number of tokens per request is unknown"),
        ("token", {"decode_requests": 0}, "number of tokens per request is unknown"),
        ("token", {"prompt_tokens": None}, "number of tokens per request is unknown"),
        ("token", {"prompt_tokens": 0, "new_tokens": 0}, "number of tokens per request is 0.0"),
        ("token", {"prompt_tokens": -640, "new_tokens": 0}, "number of tokens per request is -64.0"),
        ("carbon", {"carbon_g_per_kwh": None}, "carbon per request is unknown"),
        ("carbon", {"carbon_g_per_kwh": math.nan}, "carbon per request is unknown"),
        ("carbon", {"carbon_g_per_kwh": 0.0}, "carbon per request is 0.0 g"),
        ("cost", {"price_per_kwh": None}, "cost per request is unknown"),
        ("cost", {"price_per_kwh": -0.36}, "cost per request is -2e-7"),
        ("cost", {"price_per_kwh": math.inf}, "cost per request is inf"),
    ],
)
def test_a_metric_that_is_unknown_or_impossible_leaves_its_stage_out(metric, stage, reason):
    good = inference("good", 2.0, precision="A", **BY_GRID)
    bad = inference("bad", 2.0, precision="B", **BY_GRID | {"pue": 1.0} | stage)
    results = lab(good, bad)
    assert [row["precision"] for row in ranking(results, metric=metric).collect().to_dicts()] == ["A"]
    assert reasons(results, metric) == {"bad": reason}
    assert reasons(results, "request") == {}


@pytest.mark.parametrize("metric", ["carbon", "cost"])
def test_a_factor_that_the_fine_tuning_lacks_leaves_out_what_starts_from_it(metric):
    results = lab(finetuning("ft", 1000.0), inference("a", 2.0, needs="ft", **BY_GRID))
    assert reasons(results, metric) == {"a": f"{metric} of fine-tuning is unknown (fine-tuning ft)"}


def test_a_seed_whose_metric_is_unknown_is_left_out_and_the_others_are_ranked():
    results = lab(inference("a0", 2.0, **BY_GRID), inference("a1", 8.0, seed=1))
    assert only(results, "carbon")["ranked_by"] == pytest.approx(2e-4)
    assert reasons(results, "carbon") == {"a1": "carbon per request is unknown"}
    row = only(results, "request")
    assert (row["ranked_by"], row["carbon_g_per_request"]) == (5.0, None)


def test_means_over_seeds_come_before_products_and_ratios():
    stages = [inference("a0", 2.0, seed=0), inference("a1", 4.0, seed=1, prompt_tokens=1500)]
    energy = [*timed("a0", 10.0, 10.0), *timed("a1", 30.0, 30.0)]
    results = lab(*stages, quality={"a0": accuracy(0.5), "a1": accuracy(0.75)}, energy=energy)
    # E = 3 J; tokens (64 + 164) / 2 = 114; correct 0.625; seconds (2 + 6) / 2 = 4
    assert only(results, "token")["ranked_by"] == pytest.approx(3 / 114)
    assert only(results, "correct")["ranked_by"] == pytest.approx(4.8)
    assert only(results, "edp")["ranked_by"] == pytest.approx(12.0)


def test_a_simulated_pruning_has_the_tokens_and_seconds_of_the_joules_that_it_borrows():
    pruned = {"pruning": "m", "pruning_applied": "after", "realisation": "simulated"}
    stages = [inference("dense", 2.0), inference("pruned", 1.0, prompt_tokens=10, **pruned)]
    results = lab(*stages, energy=[*timed("dense", 20.0, 30.0), *timed("pruned", 1.0, 1.0)])
    for metric, value in {"request": 2.0, "token": 2.0 / 64, "edp": 10.0}.items():
        rows = ranking(results, metric=metric).collect()
        assert rows["ranked_by"].to_list() == [value, value]
        assert set(rows["energy_from"]) == {"own", "dense parent"}


def test_costs_in_several_currencies_have_no_order():
    in_dollars = BY_GRID | {"currency": "USD"}
    results = lab(inference("a", 1.0, precision="A", **BY_GRID), inference("b", 2.0, precision="B", **in_dollars))
    for allow_mixed in (False, True):
        with pytest.raises(NotComparable, match=r"costs are in several currencies \(EUR, USD\)"):
            ranking(results, metric="cost", allow_mixed=allow_mixed)
    assert ranking(results, metric="request").collect().height == 2


def test_a_metric_that_is_not_one_is_refused():
    with pytest.raises(InputError, match="metric: 'speed' is not allowed: one of request, token, correct"):
        ranking(lab(inference("a", 1.0)), metric="speed")


def test_the_metric_can_reverse_the_order():
    # A is cheap and slow: 1 J * 20 s against 2 J * 4 s
    stages = [inference("a", 1.0, precision="A"), inference("b", 2.0, precision="B")]
    results = lab(*stages, energy=[*timed("a", 100.0, 100.0), *timed("b", 20.0, 20.0)])
    order = {
        metric: ranking(results, metric=metric, weight=1.0).collect()["precision"].to_list()
        for metric in ("request", "edp")
    }
    assert order == {"request": ["A", "B"], "edp": ["B", "A"]}


@pytest.mark.parametrize(
    ("metric", "value", "rho"),
    [
        ("perplexity", 4.0, 0.25),
        ("loss", math.log(4), 0.25),
        ("error_rate", 0.75, 0.25),
        ("accuracy", 0.25, 0.25),
        ("some_metric_of_a_new_task", 0.25, 0.25),
        ("perplexity", 1.0, 1.0),
        ("loss", 0.0, 1.0),
    ],
)
def test_each_quality_metric_maps_to_higher_is_better(metric, value, rho):
    results = lab(inference("a", 1.0), quality={"a": {"root_cause": {metric: value}}})
    row = only(results, "request")
    assert row["rho"] == pytest.approx(rho)
    assert row["quality"] == [{"task": "root_cause", "metric": metric, "value": value}]


@pytest.mark.parametrize(
    ("metric", "value", "reason"),
    [
        ("perplexity", 0.5, "0.5, as quality 2.0, not in [0, 1]"),
        ("perplexity", 0.0, "0.0, as quality inf, not in [0, 1]"),
        ("perplexity", math.inf, "inf, as quality inf, not in [0, 1]"),
        ("loss", -math.log(2), f"{-math.log(2)}, as quality 2.0, not in [0, 1]"),
        ("loss", math.nan, "NaN, as quality NaN, not in [0, 1]"),
        ("error_rate", 1.5, "1.5, as quality -0.5, not in [0, 1]"),
        ("words_per_minute", 80.0, "80.0, not in [0, 1]"),
    ],
)
def test_what_does_not_map_into_0_to_1_leaves_its_stage_out(metric, value, reason):
    results = lab(inference("a", 1.0), quality={"a": {"root_cause": {metric: value}}})
    assert reasons(results, "request") == {"a": f"root_cause.{metric} is {reason}"}


def test_a_configuration_has_the_same_name_in_every_order_and_under_every_seed_and_others_have_another():
    rows = [inference(f"{p}{s}", 1.0, precision=p, seed=s) for p, s in product("AB", (0, 1))]
    names = {}
    for stages in (rows, rows[::-1], rows[:3]):
        for row in ranking(lab(*stages)).collect().to_dicts():
            names.setdefault(row["precision"], set()).add(row["configuration"])
    assert {precision: len(found) for precision, found in names.items()} == {"A": 1, "B": 1}
    assert names["A"] != names["B"]
    assert all(len(name) == 16 for found in names.values() for name in found)

"""How sure a quality is where it is known what each test example adds to it."""

import math

import numpy as np
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

from analysis.draws import Bootstrap
from analysis.uncertainty import uncertainty
from energyaware.rows import Row
from tests.analysis.frames import inference, results_of, window

DRAWS = 20_000


def compared(
    answers: dict[str, list[dict[str, list[float]]]], *, recorded: bool | set[str] = True, **options
) -> dict[str, Row]:
    """Rows of the uncertainty by precision, ranked by quality alone.

    `answers` has for each precision, seed by seed, what each example adds to each metric of root_cause; `recorded` says
    of which precisions the rows tell it.
    """
    told = recorded if isinstance(recorded, set) else set(answers) if recorded else set()
    stages, quality, energy = [], [], []
    for precision, seeds in answers.items():
        for seed, metrics in enumerate(seeds):
            stage_id = f"{precision}-{seed}"
            stages.append(inference(stage_id, 2.0, precision=precision, seed=seed))
            energy += [window(stage_id, "prefill", 20.0, repeat=repeat) for repeat in (1, 2)]
            quality += [
                {"stage_id": stage_id, "attempt": 1, "task": "root_cause", "metric": metric}
                | {
                    "value": float(np.mean(parts)),
                    "examples": len(parts),
                    "per_example": parts if precision in told else None,
                }
                for metric, parts in metrics.items()
            ]
    results = results_of(stages=stages, quality=quality, energy=energy)
    rows = results.ranking(weight=0.0).collect().select("configuration", "precision")
    sure = uncertainty(results, weight=0.0, **options)
    return {row["precision"]: row for row in rows.join(sure, on="configuration").to_dicts()}


def accuracy(right: int, wrong: int) -> list[dict[str, list[float]]]:
    """Of one seed: the first examples are right, the others wrong."""
    return [{"accuracy": [1.0] * right + [0.0] * wrong}]


def test_of_an_accuracy_alone_the_draws_are_those_of_a_proportion():
    bootstrap, once = Bootstrap(DRAWS, 0), np.ones((1, DRAWS))
    for right, wrong in ((9, 1), (180, 20), (50, 0)):
        values = np.array([[1.0] * right + [0.0] * wrong])
        drawn = bootstrap.of_examples(*bootstrap.over_examples(values), once, "a")
        assert stats.kstest(drawn, stats.beta(right + 0.5, wrong + 0.5).cdf).pvalue > 0.001


def test_only_where_answers_differ_can_one_be_ahead_of_another():
    # 360 and 380 of 400: all that the first has right, the second has right too.
    answers = {"fp32": accuracy(380, 20), "nf4": accuracy(360, 40)}
    known, unknown = compared(answers), compared(answers, recorded=False)
    assert known["fp32"]["best_probability"] > 0.999
    assert not known["nf4"]["tied_with_best"]
    assert 0.9 < unknown["fp32"]["best_probability"] < 0.999
    for row in known, unknown:  # of each alone the interval is the same
        assert (row["nf4"]["rho_low"], row["nf4"]["rho_high"]) == pytest.approx((0.868, 0.926), abs=0.005)


def test_a_few_answers_of_many_are_not_certain():
    one = compared({"fp32": accuracy(399, 1), "nf4": accuracy(398, 2)}, draws=DRAWS)
    assert one["nf4"]["tied_with_best"]
    # One more right among all that differ: P(p > 1/2) of Beta(1.5, 0.5), Jeffreys' posterior of a sign test.
    assert one["fp32"]["best_probability"] == pytest.approx(stats.beta(1.5, 0.5).sf(0.5), abs=0.015)
    five = compared({"fp32": accuracy(399, 1), "nf4": accuracy(394, 6)}, draws=DRAWS)
    assert five["fp32"]["best_probability"] == pytest.approx(stats.beta(5.5, 0.5).sf(0.5), abs=0.01)
    assert not five["nf4"]["tied_with_best"]


def test_the_same_answers_are_a_tie():
    same = compared({"fp32": accuracy(90, 10), "nf4": accuracy(90, 10)}, draws=DRAWS)
    assert same["nf4"]["tied_with_best"]
    assert same["nf4"]["best_probability"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_of_two_that_are_equally_good_about_one_in_twenty_pairs_is_called_apart(share):
    """Both err on the same examples but for a share that each answers by itself."""
    random, pairs, apart = np.random.default_rng(3), 400, 0
    for number in range(pairs):
        both = random.random(200) < 0.9
        one, other = (np.where(random.random(200) < share, random.random(200) < 0.9, both) for _ in range(2))
        bootstrap, once = Bootstrap(1000, number), np.ones((1, 1000))
        first, second = sorted((one, other), key=np.mean)
        worse, better = (
            bootstrap.of_examples(*bootstrap.over_examples(answers[None].astype(float)), once, name)
            for answers, name in ((first, "first"), (second, "second"))
        )
        apart += (worse >= better).mean() < 0.025
    assert 0.02 < apart / pairs < 0.09


def test_older_rows_are_compared_with_newer_ones_as_if_on_other_examples():
    answers = {"fp32": accuracy(380, 20), "nf4": accuracy(360, 40)}
    mixed = compared(answers, recorded={"nf4"}, draws=DRAWS)
    unknown = compared(answers, recorded=False, draws=DRAWS)
    assert mixed["fp32"]["best_probability"] == pytest.approx(unknown["fp32"]["best_probability"], abs=0.01)


def test_whoever_else_is_compared_a_configuration_is_drawn_alike():
    some = {"fp32": accuracy(90, 10), "nf4": accuracy(80, 20)}
    more = some | {"bf16": accuracy(300, 100), "int8": accuracy(85, 15)}
    few, many = compared(some), compared(more)
    for precision in some:
        for end in ("rho_low", "rho_high"):
            assert few[precision][end] == pytest.approx(many[precision][end], rel=1e-9)


def test_all_seeds_answer_the_same_examples():
    better, worse = accuracy(82, 18) * 2, accuracy(74, 26) * 2
    known, unknown = (compared({"fp32": better, "nf4": worse}, recorded=recorded) for recorded in (True, False))
    assert not known["nf4"]["tied_with_best"]
    assert unknown["nf4"]["tied_with_best"]
    assert known["fp32"]["interval_covers"].endswith("quality: 2 seeds, 100 test examples")


@pytest.mark.parametrize(
    "other",
    [
        {"macro_f1": None},
        {"macro_f1": [0.5] * 60},
        {"loss": [0.1] * 40 + [0.3] * 60},
        {"macro_f1": [math.nan] * 100},
        {"macro_f1": [0.5] * 99 + [None]},
    ],
    ids=["a metric does not tell", "another number of examples", "not its mean", "no numbers", "one is missing"],
)
def test_what_does_not_make_up_the_quality_is_drawn_as_a_whole(other):
    ((metric, parts),) = other.items()
    stages = [inference("a", 2.0), inference("b", 2.0, precision="nf4")]
    energy = [window(stage, "prefill", 20.0, repeat=repeat) for stage in "ab" for repeat in (1, 2)]
    right = [1.0] * 80 + [0.0] * 20
    rows = [
        {"stage_id": stage, "attempt": 1, "task": "root_cause", "metric": name, "value": value, "examples": 100}
        for stage in "ab"
        for name, value in (("accuracy", 0.8), (metric, 0.5))
    ]
    told = [row | {"per_example": {"accuracy": right, metric: parts}[row["metric"]]} for row in rows]
    with_parts, without = (
        uncertainty(results_of(stages=stages, quality=quality, energy=energy)) for quality in (told, rows)
    )
    assert with_parts.equals(without)


def test_answers_to_one_of_two_tasks_are_not_taken_for_all():
    stages = [inference("a", 2.0, tasks=["first", "second"])]
    right = [1.0] * 80 + [0.0] * 20
    rows = [
        {"stage_id": "a", "attempt": 1, "task": task, "metric": "accuracy", "value": 0.8, "examples": 100}
        for task in ("first", "second")
    ]
    energy = [window("a", "prefill", 20.0, repeat=repeat) for repeat in (1, 2)]
    told = [rows[0] | {"per_example": right}, rows[1]]
    half, none = (
        uncertainty(results_of(stages=stages, quality=quality, energy=energy), metric="correct")
        for quality in (told, rows)
    )
    assert_frame_equal(half, none)

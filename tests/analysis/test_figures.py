"""Each figure shows what the tables hold: worked by hand where numbers are."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from analysis.figures import TITLES, figures
from analysis.figures.parts import decades
from analysis.load import Results
from analysis.ranking import ranking
from energyaware.errors import InputError
from energyaware.rows import Row
from tests.analysis.drawn import data, drawn, is_plain_json, marks, parts, text
from tests.analysis.frames import finetuning, grades, inference, results_of, window

START = datetime(2026, 1, 1, tzinfo=UTC)
PRUNED: Row = {"pruning": "neurons-50%", "pruning_applied": "after", "realisation": "physical"}
SIMULATED: Row = {"pruning": "magnitude-2:4", "pruning_applied": "after", "realisation": "simulated"}


def a_sweep() -> Results:
    """Three precisions, dense and pruned, two seeds: something for every figure."""
    stages, quality, energy, epochs = [], [], [], []
    for size, (precision, joules) in enumerate({"nf4": 0.5, "bf16": 1.0, "fp32": 2.0}.items()):
        for seed in (0, 1):
            tuning = f"ft-{precision}-{seed}"
            stages.append(finetuning(tuning, 100.0 * joules, precision=precision, seed=seed, duration_s=60.0))
            epochs += [
                _epoch(tuning, number, 50.0 * joules, 2.0 / number - 0.01 * size - 0.001 * seed) for number in (1, 2)
            ]
            energy += [
                window(
                    tuning,
                    "train",
                    50.0,
                    epoch=number,
                    repeat=None,
                    power_w=5.0,
                    kept=True,
                    started_at=_at(20 * number),
                )
                for number in (1, 2)
            ]
            for change, more in enumerate([{}, PRUNED, SIMULATED]):
                name = f"{precision}-{change}-{seed}"
                serving = joules * (0.6 if more is PRUNED else 1.0)
                settings: Row = {"precision": precision, "weight_bytes": 10**size, "carbon_g_per_kwh": 360.0, **more}
                stages.append(inference(name, serving, needs=tuning, seed=seed, prompt_lengths='{"16": 3}', **settings))
                quality += grades(name, {"root_cause": {"accuracy": 0.7 + 0.05 * size - 0.1 * change + 0.01 * seed}})
                energy += [
                    window(name, part, 5.0 * serving + 0.1 * repeat, repeat=repeat, kept=True)
                    for part in ("prefill", "decode")
                    for repeat in (1, 2)
                ]
    return results_of(stages=stages, quality=quality, energy=energy, epochs=epochs)


def _epoch(stage_id: str, number: int, energy_j: float | None, loss: float | None, **more: Any) -> Row:
    row = {"stage_id": stage_id, "attempt": 1, "epoch": number, "energy_j": energy_j, "validation_loss": loss}
    return row | {"loss": loss, "measured": True, "kept": True} | more


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def of_two(**joules: float | None) -> Results:
    """Two fine-tuned configurations of these joules per request, of which the second is the better one."""
    stages = [
        finetuning("ft", 100.0),
        *(inference(name, each, needs="ft", precision=name) for name, each in joules.items()),
    ]
    quality = [
        row for place, name in enumerate(joules) for row in grades(name, {"root_cause": {"accuracy": 0.5 + place / 10}})
    ]
    return results_of(stages=stages, quality=quality)


@pytest.fixture(scope="module")
def sweep() -> Results:
    return a_sweep()


@pytest.mark.parametrize("name", TITLES)
def test_every_figure_is_drawn_with_title_caption_data_and_units(sweep, name):
    figure = drawn(sweep, name)
    specification = figure.specification()
    assert is_plain_json(specification)
    assert figure.caption.endswith(".")
    assert figure.data.height > 0
    svg = figure.svg()
    said = " ".join(text(svg))
    assert TITLES[name] in said
    assert " ".join(figure.caption.split()[:6]) in said
    assert "NaN" not in svg
    assert "undefined" not in svg
    assert sum(marks(svg, f"mark-{kind}") for kind in ("symbol", "rect", "line", "rule", "group")) > 0


def test_titles_of_axes_say_what_is_drawn_and_in_which_unit(sweep):
    titles = {
        name: {title for title in parts(figure.specification(), "title") if isinstance(title, str)}
        for name, figure in figures(sweep).items()
    }
    assert {"energy per request, J", "quality rho"} <= titles["pareto"]
    assert {"energy per request, J", "carbon per request, µg CO2e"} <= titles["precision"]
    assert {"energy of training so far, J", "validation loss, nats per token"} <= titles["energy_loss"]
    assert {"mean power, W", "time since the first window, s"} <= titles["power"]
    assert {"requests", "fine-tuning and all requests, J"} <= titles["break_even"]
    assert {"energy per request, % of dense", "quality rho, points from dense"} <= titles["pruning"]


def test_what_is_ranked_by_names_the_axis(sweep):
    axes = parts(drawn(sweep, "pareto", metric="edp").specification(), "x")
    assert {axis["title"] for axis in axes if "title" in axis} == {"energy-delay product per request, J*s"}


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("token", "Quality against energy"),
        ("edp", "Quality against energy-delay product"),
        ("carbon", "Quality against carbon"),
    ],
)
def test_what_is_ranked_by_stands_in_the_title(sweep, metric, title):
    assert figures(sweep, only=["pareto"], metric=metric)["pareto"].title == title


def test_bars_of_the_ranking_add_up_to_the_score(sweep):
    ranked = ranking(sweep, 0.3).collect()
    figure = drawn(sweep, "ranking", weight=0.3)
    sums: dict[str, float] = {}
    for row in data(figure, "part", "value"):
        sums[row["label"]] = sums.get(row["label"], 0.0) + row["value"]
    assert list(sums.values()) == pytest.approx(ranked["score"].to_list(), abs=1e-6)
    assert [row["rank"] for row in data(figure, "score_low")] == ranked["rank"].to_list()


def test_intervals_are_drawn_where_there_are_some_and_missing_ones_are_said(sweep):
    with_intervals = drawn(sweep, "ranking")
    assert all(row["score_low"] <= row["score"] <= row["score_high"] for row in data(with_intervals, "score_low"))
    assert "bootstrap intervals of 95 %" in with_intervals.caption
    without = drawn(of_two(bf16=1.0, nf4=2.0), "ranking")
    assert "No intervals" in without.caption
    assert marks(without.svg(), "mark-rule") == 0


def test_the_front_is_drawn_and_dominated_ones_are_named_by_who_dominates_them():
    stages = [inference(name, joules, precision=name) for name, joules in {"a": 1.0, "b": 2.0, "c": 3.0}.items()]
    quality = {"a": 0.5, "b": 0.8, "c": 0.7}
    results = results_of(
        stages=stages,
        quality=[row for name, q in quality.items() for row in grades(name, {"root_cause": {"accuracy": q}})],
    )
    figure = drawn(results, "pareto")
    rows = {row["label"]: (row["on_front"], row["dominating"]) for row in figure.data.to_dicts()}
    assert rows == {"a": (True, None), "b": (True, None), "c": (False, "b")}
    assert {"a", "b"} <= {*text(figure.svg())}
    assert "c" not in text(figure.svg())


def test_energies_that_differ_much_are_on_a_logarithmic_axis():
    def kind_of_axis(results):
        axes = parts(drawn(results, "pareto").specification(), "x")
        return {axis["scale"]["type"] for axis in axes if "scale" in axis}

    assert kind_of_axis(of_two(bf16=1.0, nf4=2.0)) == {"linear"}
    assert kind_of_axis(of_two(bf16=0.01, nf4=2.0)) == {"log"}


def test_a_fine_tuning_has_paid_for_itself_where_the_lines_cross():
    # 0 + 2 N = 1000 + 1 N at N = 1000, when both have taken 2000 J.
    stages = [finetuning("ft", 1000.0), inference("base", 2.0, precision="fp32")]
    stages.append(inference("tuned", 1.0, needs="ft", precision="bf16"))
    quality = [row for name in ("base", "tuned") for row in grades(name, {"root_cause": {"accuracy": 0.5}})]
    figure = drawn(results_of(stages=stages, quality=quality), "break_even")
    (crossing,) = data(figure, "below", "above")
    assert (crossing["requests"], crossing["total_j"]) == (pytest.approx(1000), pytest.approx(2000))
    assert crossing["below"].startswith("fp32")
    assert figure.data["cheaper_than"].to_list().count(f"{crossing['below']} from 1,000") == 1
    assert f"{crossing['above']} instead of {crossing['below']} from 1,000" in figure.caption


def test_ranks_over_weights_change_where_the_lines_cross():
    # Under minmax phi is 1 for a and 0 for b, so a is ahead above the w of w + (1 - w) 0.5 = (1 - w) 0.6: 1/11.
    figure = drawn(of_two(a=1.0, b=2.0), "weights")
    (change,) = data(figure, "below", "above")
    assert change["weight"] == pytest.approx(1 / 11, abs=1e-6)
    assert (change["below"], change["above"], change["place"]) == ("b", "a", 1.5)
    ends = {(row["label"], row["weight"]): row["place"] for row in data(figure, "place", "coloured")}
    assert {place: ends[place] for place in [("a", 0), ("b", 0), ("a", 1), ("b", 1)]} == {
        ("a", 0): 2,
        ("b", 0): 1,
        ("a", 1): 1,
        ("b", 1): 2,
    }
    assert "First: b from 0 to 0.0909; a from 0.0909 to 1." in figure.caption


def test_precisions_are_in_the_order_of_the_bytes_of_their_weights(sweep):
    order = {tuple(part["sort"]) for part in parts(drawn(sweep, "precision").specification(), "x")}
    assert order == {("fp32", "bf16", "nf4")}


def test_where_sizes_are_unknown_nothing_is_said_of_their_order(sweep):
    assert "largest weights is first" in drawn(sweep, "precision").caption
    stages = [inference("a", 2.0), inference("b", 1.0, precision="nf4")]
    results = results_of(
        stages=stages, quality=[row for name in "ab" for row in grades(name, {"root_cause": {"accuracy": 0.5}})]
    )
    assert "largest weights" not in drawn(results, "precision").caption


def test_joules_of_inference_are_those_of_unpruned_stages_without_fine_tuning(sweep):
    rows = drawn(sweep, "precision").data
    means = dict(rows.group_by("precision").agg(pl.mean("energy_j_per_request")).rows())
    assert means == {"nf4": 0.5, "bf16": 1.0, "fp32": 2.0}
    carbon = rows.filter(precision="fp32")["carbon_g_per_request"]
    assert carbon.to_list() == pytest.approx([2.0 * 360 / 3.6e6] * 2)


def test_without_an_emission_factor_there_is_no_axis_of_carbon():
    figure = drawn(of_two(bf16=1.0, nf4=2.0), "precision")
    assert "Carbon of 2 of 2 stages is unknown" in figure.caption
    assert "carbon" not in " ".join(parts(figure.specification(), "field"))


def test_quality_has_a_panel_per_task_and_metric():
    graded = {"root_cause": {"accuracy": 0.5, "macro_f1": 0.4}, "response": {"bleu": 0.3}}
    stages = [inference("a", tasks=["response", "root_cause"])]
    figure = drawn(results_of(stages=stages, quality=grades("a", graded)), "quality")
    assert {"response: bleu", "root_cause: accuracy", "root_cause: macro_f1"} <= {*text(figure.svg())}
    assert sorted(figure.data["value"]) == [0.3, 0.4, 0.5]


def test_pruning_is_held_against_the_dense_parent_and_a_simulated_one_saves_nothing(sweep):
    figure = drawn(sweep, "pruning")
    energy = {(row["pruning"], row["realised"]): row["energy_percent"] for row in figure.data.to_dicts()}
    assert energy == {("neurons-50%", "real"): pytest.approx(60), ("magnitude-2:4", "simulated"): 100}
    points = figure.data.filter(pruning="neurons-50%")["quality_points"]
    assert points.to_list() == pytest.approx([-10] * 3)
    assert "Hollow: a simulated pruning" in figure.caption


def test_loss_is_drawn_over_all_joules_until_the_end_of_the_epoch():
    epochs = [
        _epoch("ft", 1, 100.0, 2.0),
        _epoch("ft", 2, 150.0, 1.5),
        _epoch("ft", 3, None, 1.4),
        _epoch("ft", 4, 50.0, 1.3),
    ]
    figure = drawn(results_of(stages=[finetuning()], epochs=epochs), "energy_loss")
    assert figure.data.select("epoch", "total_j", "validation_loss").rows() == [(1, 100.0, 2.0), (2, 250.0, 1.5)]


@pytest.mark.parametrize(
    ("measured", "of_stage", "kind"),
    [
        (True, "measured", "measured"),
        (False, "mixed", "mixed"),
        (False, "estimated", "estimated"),
        (None, None, "unknown"),
    ],
)
def test_what_is_not_all_measured_is_called_as_its_stage_is(measured, of_stage, kind):
    stages = [finetuning() | {"energy_kind": of_stage, "measured": None}]
    epochs = [_epoch("ft", 1, 100.0, 2.0, measured=measured)]
    assert drawn(results_of(stages=stages, epochs=epochs), "energy_loss").data["energy_kind"].to_list() == [kind]


@pytest.mark.parametrize(("low", "high"), [(2_160_003.6, 4_375_000.0), (1.1, 1.4), (0.3, 40.0), (1.0, 1e9)])
def test_a_logarithmic_axis_has_a_scale_however_short_it_is(low, high):
    axis = decades(low, high).to_dict()
    assert len(axis.get("values", ())) >= 3 or axis["tickCount"] >= 3


def test_epochs_of_attempts_that_came_to_nothing_are_not_drawn():
    epochs = [_epoch("ft", 1, 70.0, 9.0, kept=False), _epoch("ft", 1, 100.0, 2.0, attempt=2)]
    figure = drawn(results_of(stages=[finetuning(attempt=2)], epochs=epochs), "energy_loss")
    assert figure.data["total_j"].to_list() == [100.0]
    assert "no line" in figure.caption


def test_equal_lengths_of_prompts_are_one_series_and_what_is_no_count_is_left_out():
    lengths = {
        "a": '{"16": 2, "48": 3}',
        "b": '{"48": 3, "16": 2}',
        "c": '{"32": 1}',
        "d": "[1, 2]",
        "e": "torn",
        "f": None,
    }
    stages = [inference(name, model=name, prompt_lengths=counts) for name, counts in lengths.items()]
    figure = drawn(results_of(stages=stages), "token_lengths")
    assert figure.data.rows() == [
        ("a: root_cause and 1 more", 0, 16, 2),
        ("a: root_cause and 1 more", 32, 48, 3),
        ("c: root_cause", 16, 32, 1),
    ]


def test_components_add_up_to_what_was_metered():
    energy = [
        window("a", "decode", 10.0, component="gpu", device="GPU-1"),
        window("a", "decode", 5.0, component="gpu", device="GPU-2"),
        window("a", "decode", 2.0, component="cpu", measured=False),
        window("a", "prefill", None, component="cpu"),
        window("a", "idle", 4.0, component="cpu", node="n2") | {"stage_id": None, "attempt": None},
    ]
    figure = drawn(results_of(stages=[inference("a")], energy=energy), "components")
    by_node, by_window = (
        {(row[by], row["component"], row["energy_kind"]): row["energy_j"] for row in data(figure, by)}
        for by in ("node", "window")
    )
    assert {key: joules for key, joules in by_node.items() if joules} == {
        ("n", "gpu", "measured"): 15.0,
        ("n", "cpu", "estimated"): 2.0,
        ("n2", "cpu", "measured"): 4.0,
    }
    assert sum(by_window.values()) == 21.0
    assert "Readings that failed, and are missing here: 1." in figure.caption
    assert "pale, with a dashed outline" in figure.caption


def test_lost_joules_are_told_by_what_became_of_the_attempt():
    known = {"attempt": 1, "energy_kind": "measured"}
    attempts = [
        known | {"stage_id": "a", "kind": "inference", "state": "oom", "energy_j": 3.0},
        known | {"stage_id": "b", "kind": "finetune", "state": "failed", "energy_j": 7.0},
        known | {"stage_id": "c", "kind": "finetune", "state": "failed", "energy_j": None},
    ]
    idle = window("", "idle", 5.0) | {"stage_id": None, "attempt": None}
    results = results_of(stages=[inference("a", attempt=2, energy_j=90.0)], attempts=attempts, energy=[idle])
    figure = drawn(results, "lost")
    assert {(row["became"], row["what"], row["energy_j"]) for row in figure.data.to_dicts()} == {
        ("useful", "inference", 90.0),
        ("lost: oom", "inference", 3.0),
        ("lost: failed", "fine-tuning", 7.0),
        ("idle", "no stage", 5.0),
    }
    assert "90 % became a result and 10 % were lost" in figure.caption
    assert "unknown, and missing here: 1" in figure.caption


def test_power_is_level_over_each_window_and_broken_where_nothing_was_metered():
    windows = [
        window("ft", "train", 100.0, duration_s=10.0, started_at=_at(0)),
        window("ft", "evaluate", 20.0, duration_s=5.0, started_at=_at(10)),
        window("ft", "train", 60.0, duration_s=10.0, started_at=_at(40)),
        window("ft", "other", 500.0, duration_s=50.0, started_at=_at(0)),
        window("ft", "train", None, duration_s=10.0, started_at=_at(50)),
    ]
    figure = drawn(results_of(stages=[finetuning(duration_s=60.0)], energy=windows), "power")
    corners = [(row["time_s"], row["power_w"], row["stretch"]) for row in data(figure, "time_s")]
    assert corners == [(0, 10, 0), (10, 10, 0), (10, 4, 0), (15, 4, 0), (40, 6, 1), (50, 6, 1)]
    assert "missing here: 1" in figure.caption


def test_neighbouring_windows_are_merged_where_there_are_too_many_and_no_joule_is_lost():
    windows = [
        window("ft", "train", float(number % 7), duration_s=1.0 + number % 3, started_at=_at(4 * number), epoch=number)
        for number in range(1000)
    ]
    figure = drawn(results_of(stages=[finetuning()], energy=windows), "power")
    assert figure.data.height == 200
    # each step holds 5 windows, so its mean power is that of their joules over their seconds
    first = figure.data.row(0, named=True)
    assert first["power_w"] == pytest.approx((0 + 1 + 2 + 3 + 4) / (1 + 2 + 3 + 1 + 2))
    assert "or of several that follow each other" in figure.caption


def test_power_is_that_of_the_longest_fine_tuning_or_of_the_stage_that_is_asked_for():
    stages = [
        finetuning("short", duration_s=5.0),
        finetuning("long", duration_s=9.0),
        inference("served", duration_s=50.0),
    ]
    energy = [window(name, "train", 10.0, started_at=START) for name in ("short", "long", "served")]
    results = results_of(stages=stages, energy=energy)
    assert "stage long" in drawn(results, "power").caption
    assert "stage served" in drawn(results, "power", stage="serv").caption
    with pytest.raises(InputError, match="stage: 'none' is no finished stage"):
        figures(results, only=["power"], stage="none")
    with pytest.raises(InputError, match="'s' is the beginning of several"):
        figures(results, only=["power"], stage="s")


def test_measured_and_estimated_joules_have_other_shapes_and_the_caption_says_so():
    stages = [
        inference("a", 1.0, precision="fp32"),
        inference("b", 2.0, precision="bf16", measured=False, energy_kind="estimated"),
    ]
    results = results_of(
        stages=stages, quality=[row for name in "ab" for row in grades(name, {"root_cause": {"accuracy": 0.5}})]
    )
    figure = drawn(results, "ranking", allow_mixed=True)
    (shape,) = parts(figure.specification(), "shape")
    assert shape["scale"] == {"domain": ["measured", "estimated"], "range": ["circle", "diamond"]}
    assert "told apart by shape" in figure.caption


def test_what_cannot_be_compared_is_not_ranked_and_all_else_is_drawn():
    stages = [inference("a", 1.0), inference("b", 2.0, precision="nf4", measured=False, energy_kind="estimated")]
    quality = [row for name in "ab" for row in grades(name, {"root_cause": {"accuracy": 0.5}})]
    found = figures(results_of(stages=stages, quality=quality))
    for name in ("ranking", "pareto", "weights", "break_even"):
        assert "not like with like" in found[name].reason
        assert "\n" not in found[name].reason
    assert found["precision"].reason is None


def test_results_that_hold_nothing_leave_every_figure_out_with_a_reason():
    found = figures(results_of())
    assert list(found) == list(TITLES)
    for figure in found.values():
        assert figure.chart is None
        assert figure.reason
        assert figure.data.is_empty()
        with pytest.raises(ValueError, match="nothing to draw"):
            figure.svg()


def test_joules_that_are_no_numbers_are_never_drawn():
    stages = [finetuning("ft", float("nan")), inference("a", float("nan"), needs="ft"), inference("b", float("inf"))]
    energy = [window("ft", "train", float("nan"), started_at=START), window("a", "decode", float("inf"))]
    epochs = [_epoch("ft", 1, float("nan"), 1.0), _epoch("ft", 2, 1.0, float("nan"))]
    found = figures(
        results_of(stages=stages, energy=energy, epochs=epochs, quality=grades("a", {"root_cause": {"accuracy": 0.5}}))
    )
    assert {name for name, figure in found.items() if figure.reason is None} == set()


def test_made_up_data_is_called_so(sweep):
    assert "Synthetic" not in drawn(sweep, "ranking").caption
    settings = '{"data": {"kind": "builtin"}, "model": {"kind": "folder"}}'
    stages = [inference("a", settings=settings), inference("b", settings="no JSON", precision="nf4")]
    results = results_of(
        stages=stages, quality=[row for name in "ab" for row in grades(name, {"root_cause": {"accuracy": 0.5}})]
    )
    assert "Synthetic: the fault tickets are built-in ones" in drawn(results, "ranking").caption


def test_an_answer_that_is_there_already_gives_the_same_figures(sweep):
    from analysis.show import answer

    found = answer(sweep, 0.7, 500)
    anew = drawn(sweep, "ranking", weight=0.7, requests=500)
    assert drawn(sweep, "ranking", weight=0.7, requests=500, answer=found).specification() == anew.specification()


def test_a_stage_without_the_figure_that_draws_it_is_refused(sweep):
    with pytest.raises(InputError, match="power is not among the figures"):
        figures(sweep, only=["pareto"], stage="a")


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="'paretto' is not allowed: one of ranking, pareto"):
        figures(results_of(), only=["paretto"])

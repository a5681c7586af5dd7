"""Each figure shows what the tables hold: worked by hand where numbers are."""

import pytest

from analysis.figures import TITLES, figures
from analysis.figures.parts import decades
from analysis.load import Results
from analysis.ranking import ranking
from energyaware.errors import InputError
from tests.analysis.drawn import data, drawn, is_plain_json, marks, parts, text
from tests.analysis.figured import START, a_sweep, epoch, of_two
from tests.analysis.frames import finetuning, grades, inference, results_of, window


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
def test_what_is_ranked_by_stands_in_the_titles(sweep, metric, title):
    assert figures(sweep, only=["pareto"], metric=metric)["pareto"].title == title


def test_the_axis_of_weights_names_what_is_ranked_by(sweep):
    axes = parts(drawn(sweep, "weights", metric="edp").specification(), "x")
    titles = {axis["title"] for axis in axes if "title" in axis}
    assert titles == {"weight w: 0 quality alone, 1 energy-delay product alone"}


def test_a_metric_that_there_is_not_is_refused_in_one_line(sweep):
    with pytest.raises(InputError, match="metric: 'joules' is not allowed: one of request, token"):
        figures(sweep, metric="joules")


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


@pytest.mark.parametrize(("low", "high"), [(2_160_003.6, 4_375_000.0), (1.1, 1.4), (0.3, 40.0), (1.0, 1e9)])
def test_a_logarithmic_axis_has_a_scale_however_short_it_is(low, high):
    axis = decades(low, high).to_dict()
    assert len(axis.get("values", ())) >= 3 or axis["tickCount"] >= 3


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
    epochs = [epoch("ft", 1, float("nan"), 1.0), epoch("ft", 2, 1.0, float("nan"))]
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

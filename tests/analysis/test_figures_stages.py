"""Figures of stages: precision, quality, pruning, loss, lengths of prompts, components, lost joules and power."""

import polars as pl
import pytest

from analysis.figures import figures
from analysis.load import Results
from energyaware.errors import InputError
from tests.analysis.drawn import data, drawn, parts, text
from tests.analysis.figured import START, a_sweep, at, epoch, of_two
from tests.analysis.frames import finetuning, grades, inference, results_of, window


@pytest.fixture(scope="module")
def sweep() -> Results:
    return a_sweep()


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
        epoch("ft", 1, 100.0, 2.0),
        epoch("ft", 2, 150.0, 1.5),
        epoch("ft", 3, None, 1.4),
        epoch("ft", 4, 50.0, 1.3),
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
    epochs = [epoch("ft", 1, 100.0, 2.0, measured=measured)]
    assert drawn(results_of(stages=stages, epochs=epochs), "energy_loss").data["energy_kind"].to_list() == [kind]


def test_epochs_of_attempts_that_came_to_nothing_are_not_drawn():
    epochs = [epoch("ft", 1, 70.0, 9.0, kept=False), epoch("ft", 1, 100.0, 2.0, attempt=2)]
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
        window("ft", "train", 100.0, duration_s=10.0, started_at=at(0)),
        window("ft", "evaluate", 20.0, duration_s=5.0, started_at=at(10)),
        window("ft", "train", 60.0, duration_s=10.0, started_at=at(40)),
        window("ft", "other", 500.0, duration_s=50.0, started_at=at(0)),
        window("ft", "train", None, duration_s=10.0, started_at=at(50)),
    ]
    figure = drawn(results_of(stages=[finetuning(duration_s=60.0)], energy=windows), "power")
    corners = [(row["time_s"], row["power_w"], row["stretch"]) for row in data(figure, "time_s")]
    assert corners == [(0, 10, 0), (10, 10, 0), (10, 4, 0), (15, 4, 0), (40, 6, 1), (50, 6, 1)]
    assert "missing here: 1" in figure.caption


def test_neighbouring_windows_are_merged_where_there_are_too_many_and_no_joule_is_lost():
    windows = [
        window("ft", "train", float(number % 7), duration_s=1.0 + number % 3, started_at=at(4 * number), epoch=number)
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

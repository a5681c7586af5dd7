"""Figures of hostile, many and few rows, and the same every time."""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from analysis.figures import TITLES, figures
from analysis.load import Results
from energyaware.errors import InputError
from tests.analysis.drawn import drawn, elements, names, parts, text
from tests.analysis.figured import START, a_sweep, many
from tests.analysis.frames import finetuning, grades, inference, results_of, window

ROOT = Path(__file__).parents[2]
HOSTILE = [
    '<img src=x onerror="alert(1)">',
    "</script><script>alert(1)</script>",
    "quotes \" and ' and `",
    "[a](javascript:alert(1)) ${1+1} {{1+1}}",
    "two\nlines\tand\x00\x1b[31m controls",
    "\u202eright to left",
    "datum['x'] + [0] . field",
    "fünf 漢字 العربية 🔥",
    "very long " * 60,
    "",
]


def hostile() -> Results:
    """Every text of every table is a name that means harm, and no two stages have the same."""
    stages, quality, energy, epochs, attempts = [], [], [], [], []
    for place, name in enumerate(HOSTILE):
        of = {"model": name, "precision": f"{name}{place}", "finetune_method": name, "gpu_kind": None}
        tuning, served = f"ft{place}{name}", f"in{place}{name}"
        stages.append(finetuning(tuning, 10.0 + place, duration_s=1.0, settings=name, **of))
        lengths = {"prompt_lengths": '{"16": 1}', "tasks": [name]}
        stages.append(inference(served, 1.0 + place, needs=tuning, carbon_g_per_kwh=300.0, **lengths, **of))
        pruned = {"pruning": name or "nothing", "pruning_applied": name, "realisation": name}
        stages.append(inference(f"{served}p", 0.5 + place, needs=tuning, **pruned, **lengths, **of))
        quality += [*grades(served, {name: {name: 0.05 * place}}), *grades(f"{served}p", {name: {name: 0.5}})]
        energy += [
            window(stage, name, 5.0, component=name, device=name, node=name, started_at=START)
            for stage in (tuning, served)
        ]
        epochs += [
            {"stage_id": tuning, "attempt": 1, "epoch": 1, "energy_j": 5.0, "validation_loss": 1.0, "kept": True}
        ]
        attempts += [{"stage_id": name, "attempt": 9, "kind": name, "state": name, "energy_j": 1.0}]
    return results_of(stages=stages, quality=quality, energy=energy, epochs=epochs, attempts=attempts)


@pytest.fixture(scope="module")
def of_hostile() -> dict:
    return figures(hostile())


@pytest.fixture(scope="module")
def of_many() -> dict:
    return figures(many(1000))


@pytest.mark.parametrize("name", TITLES)
def test_hostile_names_come_out_as_text(of_hostile, name):
    figure = of_hostile[name]
    assert figure.reason is None
    svg = figure.svg()
    assert names(svg) <= {"svg", "g", "path", "rect", "text", "line", "defs", "clipPath", "tspan"}
    assert not [attribute for element in elements(svg) for attribute in element.attrib if attribute.startswith("on")]
    for letter in ("\x00", "\x1b", "\u202e"):
        assert letter not in svg
        assert letter not in json.dumps(figure.specification(), ensure_ascii=False)


@pytest.mark.parametrize("results", [a_sweep, hostile])
def test_what_is_drawn_is_vega_lite_by_its_schema(results):
    for figure in figures(results()).values():
        assert figure.chart.to_dict(validate=True)["$schema"].endswith(".json")


def test_hostile_names_are_told_apart_and_stand_in_the_picture(of_hostile):
    said = "\n".join(text(of_hostile["ranking"].svg()))
    for words in ('<img src=x onerror="alert(1)">', "</script><script>", "fünf 漢字 العربية 🔥", "${1+1} {{1+1}}"):
        assert words in said
    labels = of_hostile["ranking"].data["label"]
    assert labels.n_unique() == len(labels) == 2 * len(HOSTILE)


def test_long_labels_are_cut_in_the_picture_and_whole_in_the_tooltip(of_hostile):
    figure = of_hostile["ranking"]
    (cut,) = {line for line in text(figure.svg()) if line.startswith("very long")}
    assert len(cut) < 60
    assert cut.endswith("…")
    tooltips = {row["label"] for rows in figure.specification()["datasets"].values() for row in rows}
    assert [label for label in tooltips if label.startswith("very long " * 60)]


def test_of_a_thousand_the_best_are_listed_and_the_others_are_one_row(of_many):
    figure = of_many["ranking"]
    assert figure.data.height == 30
    assert "The best 30 of 1000 configurations" in figure.caption
    assert "970 others" in text(figure.svg())


def test_a_thousand_configurations_stay_small_and_readable(of_many):
    assert {name for name, figure in of_many.items() if figure.reason} == set()
    size = sum(len(json.dumps(figure.specification())) for figure in of_many.values())
    assert size < 1.5 * 2**20
    for name in ("weights", "break_even", "energy_loss"):
        colours = [scale for scale in parts(of_many[name].specification(), "color") if "scale" in scale]
        assert {len(scale["scale"]["domain"]) for scale in colours} <= {*range(7)}
    assert "of 1000 configurations" in of_many["weights"].caption
    assert "In colour the 6 of 100 fine-tunings" in of_many["energy_loss"].caption
    assert "71 other nodes" in text(of_many["components"].svg())


def test_labels_of_points_do_not_lie_over_each_other(of_many):
    boxes = []
    for group in elements(of_many["pareto"].svg()):
        if "mark-text role-mark" in group.get("class", ""):
            for label in group:
                x, y = map(float, re.findall(r"[-.\d]+", label.get("transform"))[:2])
                width = 5 * len(label.text)
                start = x - width if label.get("text-anchor") == "end" else x
                boxes.append((start, start + width, y))
    assert 3 < len(boxes) < of_many["pareto"].data["on_front"].sum()
    for one, other in itertools.combinations(boxes, 2):
        assert one[1] <= other[0] or other[1] <= one[0] or abs(one[2] - other[2]) >= 11
    assert "Labels that would overlap are left out" in of_many["pareto"].caption


def test_one_configuration_alone_is_drawn():
    results = results_of(stages=[inference("a")], quality=grades("a", {"root_cause": {"accuracy": 0.5}}))
    for name in ("ranking", "pareto", "weights", "break_even", "precision", "quality"):
        assert "NaN" not in drawn(results, name).svg()


def test_equal_energies_and_qualities_are_drawn():
    stages = [inference(name, precision=name) for name in ("a", "b", "c")]
    quality = [row for name in "abc" for row in grades(name, {"root_cause": {"accuracy": 0.0}})]
    for name in ("ranking", "pareto", "weights", "break_even"):
        svg = drawn(results_of(stages=stages, quality=quality), name).svg()
        assert "NaN" not in svg
        assert "Infinity" not in svg


def test_the_same_results_give_the_same_bytes():
    first = {name: figure.svg() for name, figure in figures(many(12)).items()}
    assert {name: figure.svg() for name, figure in figures(many(12)).items()} == first
    code = (
        "import hashlib\nfrom analysis.figures import figures\nfrom tests.analysis.test_figures_robust import many\n"
        "print(*(hashlib.sha256(figure.svg().encode()).hexdigest() for figure in figures(many(12)).values()))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "LANG": "C", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.split() == [hashlib.sha256(svg.encode()).hexdigest() for svg in first.values()]


def test_files_that_are_merged_while_they_are_read_are_one_line(tmp_path):
    file = tmp_path / "energy.parquet"
    results = many(2)
    results.energy.collect().write_parquet(file)
    changing = replace(results, energy=pl.scan_parquet(file))
    file.unlink()
    with pytest.raises(InputError, match="was changed while it was read: try again"):
        figures(changing, only=["components"])

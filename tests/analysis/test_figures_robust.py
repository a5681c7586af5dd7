"""Figures of hostile, many and few rows; on both grounds; the same every time; and as the command writes them."""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest

from analysis.figures import TITLES, figures
from analysis.figures.theme import PALETTES, Theme, config
from analysis.load import Results
from energyaware.errors import InputError
from tests.analysis.builders import Lab
from tests.analysis.drawn import drawn, elements, marks, names, parts, text
from tests.analysis.frames import finetuning, grades, inference, results_of, window
from tests.analysis.test_figures import a_sweep
from tests.loaded import loaded_by

ROOT = Path(__file__).parents[2]
START = datetime(2026, 1, 1, tzinfo=UTC)
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


def many(count: int) -> Results:
    """As many configurations as that, dense and pruned, of a few fine-tunings."""
    stages, quality, energy, epochs = [], [], [], []
    for tuned in range(0, count, 10):
        tuning, precision = f"ft{tuned}", f"p{tuned // 10 % 8}"
        stages.append(
            finetuning(tuning, 100.0 + tuned, precision=precision, model=f"m{tuned}", duration_s=10.0 + tuned)
        )
        epochs += [
            {
                "stage_id": tuning,
                "attempt": 1,
                "epoch": epoch,
                "energy_j": 50.0,
                "validation_loss": 2.0 / epoch,
                "kept": True,
            }
            for epoch in (1, 2, 3)
        ]
        energy += [
            window(tuning, "train", 50.0, started_at=START, epoch=epoch, node=f"n{tuned}") for epoch in (1, 2, 3)
        ]
        for number in range(tuned, min(tuned + 10, count)):
            pruned = {"pruning": f"kind{number % 10}-50%", "realisation": "physical"} if number % 10 else {}
            joules, good = 1 + (number * 7919 % 1000) / 500, 0.3 + (number * 104729 % 1000) / 2000
            of = {
                "precision": precision,
                "model": f"m{tuned}",
                "carbon_g_per_kwh": 300.0,
                "prompt_lengths": '{"16": 1}',
            }
            stages.append(inference(f"s{number}", joules, needs=tuning, **of, **pruned))
            quality += grades(f"s{number}", {"root_cause": {"accuracy": good}})
            energy += [
                window(f"s{number}", part, 5.0 * joules + repeat, repeat=repeat)
                for part in ("prefill", "decode")
                for repeat in (1, 2)
            ]
    return results_of(stages=stages, quality=quality, energy=energy, epochs=epochs)


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


def test_themes_differ_in_their_configuration_alone():
    figure = drawn(many(4), "pareto")
    light, dark = figure.specification("light"), figure.specification("dark")
    assert (light.pop("config"), dark.pop("config")) == (config("light"), config("dark"))
    assert light == dark
    for theme in get_args(Theme):
        assert f'fill="{PALETTES[theme].ground}"' in figure.svg(theme)


def test_no_figure_names_a_colour_of_its_own():
    for name, figure in figures(many(20)).items():
        content = json.dumps({key: part for key, part in figure.specification().items() if key != "config"})
        assert not re.search(r"#[0-9a-f]{3}|rgb\(", content), name


@pytest.mark.parametrize("theme", get_args(Theme))
def test_colours_can_be_told_from_the_ground_and_from_each_other(theme):
    palette = PALETTES[theme]
    for colour in palette.categories:
        assert contrast(colour, palette.ground) >= 3
    for colour in (palette.ink, palette.quiet):
        assert contrast(colour, palette.ground) >= 4.5
    for seen in SEEN_BY.values():
        for one, other in itertools.combinations(palette.categories, 2):
            assert np.linalg.norm(lab(seen @ linear(one)) - lab(seen @ linear(other))) > 13


SEEN_BY = {
    "all cones": np.eye(3),
    "no L cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no M cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no S cones": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
"""Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB."""


def linear(colour: str) -> np.ndarray:
    """Linear RGB of a colour (IEC 61966-2-1)."""
    share = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2."""
    light, dark = sorted((float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of linear RGB under D65."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    lab = Lab(tmp_path_factory.mktemp("figures") / "results")
    lab.finetune()
    lab.inference("a", energy=1.0, precision="fp32")
    lab.inference("b", energy=0.5, precision="nf4", quality={"root_cause": {"accuracy": 0.7}})
    lab.results()
    return lab.folder


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweep", "figures", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_a_file_per_figure_and_says_what_it_leaves_out(folder, tmp_path):
    ended = command(folder, "-o", "deep/pictures", "--weight", 0.25, "--theme", "dark", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    written = sorted(file.name for file in (tmp_path / "deep/pictures").iterdir())
    assert written == [
        "break_even.svg",
        "lost.svg",
        "pareto.svg",
        "precision.svg",
        "quality.svg",
        "ranking.svg",
        "weights.svg",
    ]
    assert "left out: energy_loss: no finished fine-tuning has an epoch" in ended.stdout
    assert len(ended.stdout.splitlines()) == len(TITLES)
    svg = (tmp_path / "deep/pictures/ranking.svg").read_text()
    assert "R = 0.25 phi + 0.75 rho" in " ".join(text(svg))
    assert marks(svg, "mark-rect") == 4


def test_an_older_picture_of_what_is_left_out_now_is_named(folder, tmp_path):
    (tmp_path / "energy_loss.svg").write_text("of another sweep")
    ended = command(folder, "-o", tmp_path, "--only", "energy_loss", cwd=tmp_path)
    assert ended.stdout.endswith(f"; {tmp_path / 'energy_loss.svg'} is of an earlier call\n")


def test_the_command_writes_pixels_of_the_figures_that_are_asked_for(folder, tmp_path):
    ended = command(folder, "-o", tmp_path, "--only", "pareto", "--only", "quality", "--format", "png", cwd=tmp_path)
    assert ended.stdout.split() == [str(tmp_path / "pareto.png"), str(tmp_path / "quality.png")]
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "paretto"], "figures: only: 'paretto' is not allowed: one of ranking, pareto"),
        (["--stage", "zz", "--only", "power"], "figures: stage: 'zz' is no finished stage of these results"),
        (["--weight", "2", "--only", "pareto"], "weight: 2.0 is not allowed"),
        (["-o", "/dev/null/pictures", "--only", "lost"], "--output: /dev/null/pictures: Not a directory"),
    ],
)
def test_what_is_asked_wrongly_is_one_line_and_writes_nothing(folder, tmp_path, arguments, said):
    ended = command(folder, *arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [".", "figures", "stages/figures", "nothing/../figures"])
def test_the_command_writes_nothing_into_the_results(folder, tmp_path, place):
    held = sorted(folder.rglob("*"))
    ended = command(folder, "-o", folder / place, "--only", "lost", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (
        2,
        f"error: --output: {folder / place}: lies in the results folder {folder}, which is only read here\n",
    )
    assert sorted(folder.rglob("*")) == held


def test_a_figure_that_is_a_link_into_the_results_is_not_followed(folder, tmp_path):
    (tmp_path / "lost.svg").symlink_to(folder / "plan.parquet")
    plan = (folder / "plan.parquet").read_bytes()
    ended = command(folder, "-o", tmp_path, "--only", "lost", cwd=tmp_path)
    assert ended.returncode == 2
    assert "lost.svg: lies in the results folder" in ended.stderr
    assert (folder / "plan.parquet").read_bytes() == plan


def test_without_the_extra_the_command_says_what_to_install(folder):
    code = (
        "import sys\nsys.modules['altair'] = None\nsys.argv[1:] = ['figures', sys.argv[1]]\n"
        "from sweep.cli import main\nmain()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (2, "error: figures: needs altair: pip install 'energyaware[report]'\n")


def test_nothing_that_draws_is_loaded_before_figures_are_asked_for():
    loaded = loaded_by("import analysis.figures")
    assert "analysis.figures" in loaded
    assert not {"altair", "vl_convert", "pandas", "torch", "ray"} & loaded


def test_files_that_are_merged_while_they_are_read_are_one_line(tmp_path):
    file = tmp_path / "energy.parquet"
    results = many(2)
    results.energy.collect().write_parquet(file)
    changing = replace(results, energy=pl.scan_parquet(file))
    file.unlink()
    with pytest.raises(InputError, match="was changed while it was read: try again"):
        figures(changing, only=["components"])


def test_figures_of_several_folders_are_drawn_as_of_one(folder, tmp_path):
    other = Lab(tmp_path / "other")
    other.inference("c", energy=0.7, precision="int8", needs=None)
    other.results()
    ended = command(folder, other.folder, "-o", tmp_path / "pictures", "--only", "ranking", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    said = text((tmp_path / "pictures/ranking.svg").read_text())
    for name in ("fp32", "nf4", "int8"):
        assert any(name in line for line in said)

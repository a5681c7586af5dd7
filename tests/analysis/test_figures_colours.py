"""Colours of figures: on both grounds, and for eyes that lack one kind of cones."""

import itertools
import json
import re
from typing import get_args

import numpy as np
import pytest

from analysis.figures import figures
from analysis.figures.theme import PALETTES, Theme, config
from tests.analysis.drawn import drawn
from tests.analysis.figured import many


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

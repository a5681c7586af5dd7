"""How all figures look: colours, fonts and strokes, light and dark, as a Vega-Lite configuration.

A figure names roles (`faded`, `ink`, …) and never a colour, so that one specification serves both grounds. What a
colour says is said by a shape, a pattern or a word, too.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

Theme = Literal["light", "dark"]

FONT: Final = "Liberation Sans, Arial, Helvetica, sans-serif"
"""Faces of one set of widths, of which every system has at least one."""

SHAPES: Final = {"measured": "circle", "estimated": "diamond", "mixed": "square", "unknown": "cross"}
"""Mark of a point by the kind of its joules."""

LABEL_PX: Final = 250
"""Longer labels are cut; whole ones are in the tooltips."""


@dataclass(frozen=True)
class Palette:
    """Colours for one ground.

    Attributes:
        categories: one after another for what has a colour of its own. Each has a contrast of 3:1 or more to the ground
            (WCAG 2.2, success criterion 1.4.11). With the dichromacies of Machado et al. 2009 ("A physiologically-based
            model for simulation of color vision deficiency") any two are at least 13 apart in CIE L*a*b*.
        ink: text, and what is to be seen first.
        quiet: text beside.
        grid: lines to read a value by.
        faded: what is there for comparison alone; with a contrast of 3:1 or more even at an opacity of 0.8.
    """

    ground: str
    categories: tuple[str, ...]
    ink: str
    quiet: str
    grid: str
    faded: str


PALETTES: Final[dict[Theme, Palette]] = {
    "light": Palette(
        ground="#ffffff",
        categories=("#0062c4", "#e8590c", "#2f9e72", "#cf5fb8", "#6b4a00", "#241b4e"),
        ink="#1a1f24",
        quiet="#56606a",
        grid="#e1e6eb",
        faded="#6f7a85",
    ),
    "dark": Palette(
        ground="#14171a",
        categories=("#4cb9f5", "#d0801f", "#1d8a63", "#f7c6d0", "#f0e442", "#8f5cf6"),
        ink="#e8ebee",
        quiet="#a4aeb8",
        grid="#2b3238",
        faded="#6f7a85",
    ),
}

COLOURS: Final = len(PALETTES["light"].categories)
"""How many series can have a colour of their own."""


def config(theme: Theme = "light") -> dict[str, Any]:
    """The `config` of a Vega-Lite specification. Its ground is see-through: a page or a file brings its own."""
    colours = PALETTES[theme]
    text = {"labelColor": colours.quiet, "titleColor": colours.ink, "labelFontSize": 11, "titleFontSize": 12}
    text |= {"titleFontWeight": "normal", "labelLimit": LABEL_PX}
    return {
        "background": None,
        "font": FONT,
        "range": {"category": list(colours.categories)},
        "mark": {"color": colours.categories[0]},
        "view": {"stroke": None},
        "axis": text | {"gridColor": colours.grid, "domainColor": colours.quiet, "tickColor": colours.quiet},
        "legend": text
        | {"symbolStrokeWidth": 2, "symbolFillColor": colours.quiet, "symbolBaseStrokeColor": colours.quiet},
        "header": text,
        "title": {
            "anchor": "start",
            "color": colours.ink,
            "fontSize": 15,
            "fontWeight": "bold",
            "subtitleColor": colours.quiet,
            "subtitleFontSize": 11,
            "subtitlePadding": 6,
            "offset": 14,
        },
        "style": {
            "ink": {"color": colours.ink},
            "quiet": {"color": colours.quiet},
            "faded": {"color": colours.faded},
            "band": {"color": colours.grid, "stroke": colours.ground},
            "hollow": {"color": colours.ground, "stroke": colours.ink},
            "label": {"color": colours.ink, "fontSize": 11},
            "note": {"color": colours.quiet, "fontSize": 10},
        },
    }

"""A figure: what is drawn, what is said beside it, and its data; as a specification, SVG or PNG."""

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analysis.figures.theme import PALETTES, Theme, config

if TYPE_CHECKING:
    import altair as alt

    Chart = alt.LayerChart | alt.ConcatChart | alt.HConcatChart | alt.VConcatChart

_PNG_SCALE: Final = 2.0
"""Pixels per unit of the drawing: sharp on screens of high density, and in print at 12 cm."""

_CAPTION_LETTERS: Final = 108
"""In a line of the caption that stands above a figure in a file of its own."""


class NothingToDraw(Exception):
    """The results hold nothing for a figure; the message says what is missing, in one line."""


@dataclass(frozen=True)
class Drawing:
    """What a figure's function makes of results: the chart, its caption and the rows that are drawn."""

    chart: "Chart"
    caption: str
    data: pl.DataFrame


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: short, as `--only` and file names have it.
        title: what it shows.
        caption: how to read it, what it leaves out, and what to know before believing it.
        chart: an Altair chart without theme and title; None where there is nothing to draw.
        data: the rows that are drawn, for readers who cannot see them; empty where there is nothing to draw.
        reason: why there is nothing to draw, in one line; None where there is.
    """

    name: str
    title: str
    caption: str
    chart: "Chart | None"
    data: pl.DataFrame
    reason: str | None

    def specification(self, theme: Theme = "light") -> dict[str, Any]:
        """Vega-Lite, for a page: its data inline, its ground see-through, without title and caption.

        The two themes differ in the key `config` alone, which is `analysis.figures.theme.config`.

        Raises:
            ValueError: there is nothing to draw.
        """
        if self.chart is None:
            raise ValueError(f"nothing to draw: {self.reason}")
        content: dict[str, Any] = self.chart.to_dict(validate=False)
        return content | {"config": config(theme), "description": f"{self.title}. {self.caption}"}

    def svg(self, theme: Theme = "light") -> str:
        """A picture that stands by itself: with title and caption, on a ground of its own. Fetches nothing."""
        import vl_convert

        picture: str = vl_convert.vegalite_to_svg(self._by_itself(theme), allowed_base_urls=[])
        return picture

    def png(self, theme: Theme = "light") -> bytes:
        """The same in pixels."""
        import vl_convert

        picture: bytes = vl_convert.vegalite_to_png(self._by_itself(theme), scale=_PNG_SCALE, allowed_base_urls=[])
        return picture

    def _by_itself(self, theme: Theme) -> dict[str, Any]:
        title = {"text": self.title, "subtitle": textwrap.wrap(self.caption, _CAPTION_LETTERS, break_on_hyphens=False)}
        return self.specification(theme) | {"title": title, "background": PALETTES[theme].ground, "padding": 16}

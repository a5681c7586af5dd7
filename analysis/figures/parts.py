"""Parts that figures have in common: their data as plain values, tooltips, legends that select, scales."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import altair as alt
import polars as pl

from analysis.figures.subject import printable
from analysis.figures.theme import SHAPES

WIDTH: Final = 560
"""Of a figure with one panel, in px."""

HALF: Final = 250
"""Of each of two panels side by side."""

TOP: Final = 30
"""Rows of a figure that lists configurations; the others are summed up in one."""

_DIGITS: Final = 7
"""Of a number: more than can be seen, and less to carry than all."""

_PLAIN: Final = (0.1, 10_000)
"""From and below which the largest value of an axis is written without a prefix of its unit."""

_PREFIXES: Final = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}

_TICKS: Final = 6

_LEAST_TICKS: Final = 3

_FEW_DECADES: Final = 3

_FAINT: Final = 0.12
"""Opacity of what is not selected in the legend."""


def inline(frame: pl.DataFrame) -> alt.InlineData:
    """The rows as values of the specification: text without control characters, and null for what is no number."""
    return alt.InlineData(values=[{name: _plain(value) for name, value in row.items()} for row in frame.to_dicts()])


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


def panel(*layers: alt.Chart, height: float, width: float = WIDTH) -> alt.LayerChart:
    """One chart of several layers over each other; those without data, which have no domain, are left out."""
    return alt.LayerChart(layer=[layer for layer in layers if layer.data["values"]]).properties(
        width=width, height=height
    )


def tips(text: dict[str, str], numbers: dict[str, str]) -> list[alt.Tooltip]:
    """A tooltip of columns of text and of numbers, each with its title."""
    return [
        *(alt.Tooltip(name, type="nominal", title=title) for name, title in text.items()),
        *(alt.Tooltip(name, type="quantitative", title=title, format=".4~g") for name, title in numbers.items()),
    ]


def picked(field: str) -> alt.Parameter:
    """A selection by click on a legend's entry; it belongs to the first layer that the legend is about."""
    return alt.selection_point(name="picked", fields=[field], bind="legend")


def unless_picked_away(selection: alt.Parameter, opacity: float = 1.0) -> Any:
    """Opacity of marks, of which those that are not selected are faint."""
    return alt.when(selection).then(alt.value(opacity)).otherwise(alt.value(_FAINT))


def kind_shape(kinds: Iterable[str], *, legend: bool = True) -> alt.Shape:
    """Shape of a point by the kind of its joules, which stands in column `energy_kind`."""
    present = [kind for kind in SHAPES if kind in set(kinds)]
    return alt.Shape(
        "energy_kind:N",
        scale=alt.Scale(domain=present, range=[SHAPES[kind] for kind in present]),
        legend=alt.Legend(title="energy", orient="bottom") if legend else None,
    )


def in_order(
    field: str, values: Sequence[str], title: str | None, *, columns: int = 2, lines: bool = False
) -> alt.Color:
    """Colour by a column of text, of which the values have this order, with a legend that shows dots or lines."""
    return alt.Color(
        f"{field}:N", scale=alt.Scale(domain=list(values)), sort=None, legend=key(title, columns, lines=lines)
    )


def key(title: str | None, columns: int, *, lines: bool = False) -> alt.Legend:
    """A legend below, of dots or lines."""
    look: dict[str, Any] = (
        {"symbolType": "stroke", "symbolStrokeWidth": 3} if lines else {"symbolType": "circle", "symbolStrokeWidth": 0}
    )
    return alt.Legend(title=title, orient="bottom", columns=columns, **look)


def fitting(
    values: pl.Series, margin: float = 0.08, *, lowest: float = -math.inf, highest: float = math.inf
) -> list[float]:
    """A domain that holds the values with a margin, as a share of their span; of equal ones, as a share of them."""
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]  # floats, none null
    room = margin * ((high - low) or abs(high) or 1.0)
    return [max(low - room, lowest), min(high + room, highest)]


def with_prefix(title: str, unit: str, largest: float) -> tuple[str, alt.Axis]:
    """Title and axis for values up to `largest`, in thousands or thousandths of the unit where these are handier."""
    if _PLAIN[0] <= largest < _PLAIN[1] or largest <= 0:
        return f"{title}, {unit}", alt.Axis(tickCount=_TICKS)
    power = max(min(3 * math.floor(math.log10(largest) / 3), max(_PREFIXES)), min(_PREFIXES))
    axis = alt.Axis(labelExpr=f"format(datum.value / 1e{power}, ',~g')", tickCount=_TICKS)
    return f"{title}, {_PREFIXES[power]}{unit}", axis


def decades(low: float, high: float) -> alt.Axis:
    """A logarithmic axis with few lines: at 1, 2 and 5 of each decade, or at powers of ten where these are enough."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (1, 2, 5) if last - first <= _FEW_DECADES else (1,)
    values = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    shown = [value for value in values if low <= value <= high]
    form = "~s" if high >= _PLAIN[1] else "~g"
    # Within a decade even 1, 2 and 5 may be too few: ticks are then as far apart as on a linear axis.
    return (
        alt.Axis(values=shown, format=form) if len(shown) >= _LEAST_TICKS else alt.Axis(tickCount=_TICKS, format=form)
    )

"""Values as people and programs read them: text without control characters, numbers, tables, JSON, CSV."""

import json
import math
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from polars import selectors

from energyaware.errors import few

if TYPE_CHECKING:
    from rich.text import Text

_ALL: Final = 100
"""Percent."""

_GROUPED: Final = (999.5, 1e9)
"""From and below which a number is written out, in groups of three digits; what rounds to a thousand is one."""

JOULES_PER_KWH: Final = 3.6e6

_LARGE_J: Final = 1e6

_US_PER_S: Final = 1e6


def plain(value: object, style: str = "") -> "Text":
    """A value as text of a table cell: no markup, no control characters, and of many numbers the first."""
    from rich.text import Text

    if isinstance(value, list):
        numbers = all(isinstance(part, float) for part in value)
        value = few([f"{part:.3g}" for part in value]) if numbers else ", ".join(map(str, value))
    text = "-" if value is None else str(value)
    return Text("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text), style)


def number(value: float | None) -> str:
    """Three significant digits, without an exponent where that is short; unknown is a question mark."""
    if value is None:
        return "?"
    return f"{value:,.0f}" if _GROUPED[0] <= abs(value) < _GROUPED[1] else f"{value:.3g}"


def joules(value: float | None) -> str:
    """Such as "1,234 J"; what is a megajoule or more is told in kWh, as it is paid for."""
    return f"{number(value)} J" if value is None or abs(value) < _LARGE_J else f"{number(value / JOULES_PER_KWH)} kWh"


def share(part: float) -> str:
    """In whole percent; what is some is not rounded to none, nor to all."""
    percent = round(100 * part)
    if percent == 0 and part > 0:
        return "<1 %"
    return ">99 %" if percent >= _ALL > 100 * part else f"{percent} %"


def to_json(content: Any, indent: int | None = 2) -> str:
    """Strict JSON: a float that is not finite becomes null, a time ISO 8601 text, a length of time seconds."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False, default=_simple)


def _simple(value: object) -> float | str:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(frame: pl.DataFrame) -> str:
    """CSV with lists of values joined by spaces, anything deeper as JSON, and lengths of time in seconds."""
    seconds = selectors.duration().dt.total_microseconds() / _US_PER_S
    return (
        frame.with_columns(_flat(column) for column in frame if column.dtype.is_nested())
        .with_columns(seconds)
        .write_csv()
    )


def _flat(column: pl.Series) -> pl.Series:
    if column.dtype in [pl.List(kind) for kind in (pl.String, pl.Int64, pl.Float64)]:
        return column.cast(pl.List(pl.String)).list.join(" ")
    return pl.Series(
        column.name, [None if value is None else to_json(value, indent=None) for value in column.to_list()], pl.String
    )

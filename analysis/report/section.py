"""The parts of the page, before they are HTML."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.report.table import Table


@dataclass(frozen=True)
class KeyFigure:
    """A number that stands out, and what stands beside it."""

    name: str
    value: str
    beside: str | None = None


@dataclass(frozen=True)
class Picture:
    """A figure of the page; its specification is in the page's data under its name."""

    name: str
    title: str
    caption: str
    table: Table | None


@dataclass(frozen=True)
class Block:
    """Text to be copied."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Attributes:
        name: unique in the page: what links point at.
        points: lines above the tables.
        remarks: lines below them.
        terms: what words mean.
    """

    name: str
    title: str
    paragraphs: Sequence[str] = ()
    points: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = ()
    figures: Sequence[Picture] = ()
    code: Sequence[Block] = ()

"""Tables on a terminal, that show what says something and fits."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from analysis.printing import plain

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

Row = dict[str, Any]


@dataclass(frozen=True)
class TerminalTable:
    """Rows under headings, as rich prints them.

    Attributes:
        rows: values by column; all have the same columns.
        headings: of columns that are not headed by their name.
        right: columns that end alike, and are never cut.
        folded: columns that may run over several lines.
        if_varied: columns that appear only where rows differ in them.
        if_known: columns that appear only where a row has a value.
        giving_way: columns that a narrow terminal goes without, the first of them first.
    """

    rows: Sequence[Row]
    headings: Mapping[str, str] = field(default_factory=dict)
    right: Collection[str] = ()
    folded: Collection[str] = ()
    if_varied: Collection[str] = ()
    if_known: Collection[str] = ()
    giving_way: Sequence[str] = ()

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        """As rich asks for it: with as many columns as fit."""
        widths = {name: self._width(name) for name in self._telling()}
        for name in self.giving_way:
            if sum(widths.values()) + len(widths) + 1 > options.max_width:  # a blank between two, and at each end
                widths.pop(name, None)
        yield self._of(widths)

    def _of(self, widths: Mapping[str, int]) -> "Table":
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
        for name, width in widths.items():
            right = name in self.right
            table.add_column(
                plain(self._heading(name)),
                justify="right" if right else "left",
                no_wrap=name not in self.folded,
                overflow="fold",
                min_width=width if right else None,  # a number that is cut is another number
            )
        for row in self.rows:
            table.add_row(*(plain(row[name]) for name in widths))
        return table

    def _telling(self) -> Iterator[str]:
        for name in self.rows[0] if self.rows else ():
            varies = name not in self.if_varied or len({str(row[name]) for row in self.rows}) > 1
            if varies and (name not in self.if_known or any(row[name] is not None for row in self.rows)):
                yield name

    def _width(self, name: str) -> int:
        return max(map(len, [self._heading(name), *(plain(row[name]).plain for row in self.rows)]))

    def _heading(self, name: str) -> str:
        return self.headings.get(name, name.replace("_", " "))

"""The status of a sweep as it changes, in a terminal or as lines of a log."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from analysis.printing import number
from analysis.states import NO_FAILURE
from analysis.status import Status, as_table

if TYPE_CHECKING:
    from rich.console import Console

_PATIENCE_S: Final = 20.0
"""How long results that no run holds are watched: one may be starting, or taking over."""


def watch(
    load_status: Callable[[], Status], console: "Console", seconds: float = 2.0, patience_s: float = _PATIENCE_S
) -> None:
    """Show the status until nothing runs and nothing is left, no run holds the results any more, or Ctrl-C.

    Args:
        load_status: reads the status anew; what it raises goes through.
        console: a terminal is redrawn; anything else gets one line per change.
        seconds: between two readings.
        patience_s: seconds without a run after which watching ends while stages are left.
    """
    show = _redraw if console.is_terminal else _write_changes
    with suppress(KeyboardInterrupt):
        show(_Watched(load_status, seconds, patience_s), console)


@dataclass
class _Watched:
    load_status: Callable[[], Status]
    seconds: float
    patience_s: float
    unheld_since: float | None = None

    def next(self) -> tuple[Status, str | None]:
        """The status now, and why it is the last one, or None."""
        status = self.load_status()
        if status.held_by or status.running:
            self.unheld_since = None
            return status, None
        if not status.left:
            return status, "nothing is running and nothing is left"
        if status.stopped_by_budget:
            return status, f"{status.stopped_by_budget}; a run with a larger budget goes on from here"
        if self.unheld_since is None:
            self.unheld_since = time.monotonic()
        if time.monotonic() - self.unheld_since < self.patience_s:
            return status, None
        return status, "no run is at work on these results: energyaware resume goes on with them"


def _redraw(watched: _Watched, console: "Console") -> None:
    from rich.live import Live

    status, end = watched.next()
    with Live(as_table(status), console=console, auto_refresh=False) as live:
        while end is None:
            time.sleep(watched.seconds)
            status, end = watched.next()
            live.update(as_table(status), refresh=True)
    console.print(end, highlight=False)


def _write_changes(watched: _Watched, console: "Console") -> None:
    written = None
    while True:
        status, end = watched.next()
        if (line := _line(status)) != written:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
            written = line
        if end is not None:
            console.print(end, highlight=False, markup=False, soft_wrap=True)
            return
        time.sleep(watched.seconds)


def _line(status: Status) -> str:
    """What changes when a stage begins or ends; joules of attempts at work would change at every heartbeat."""
    counts: dict[str, int] = {}
    for by_state in status.counts.values():
        for state, count in by_state.items():
            counts[state] = counts.get(state, 0) + count
    failed = {state: count for state, count in counts.items() if state not in NO_FAILURE and count}
    parts = [
        f"{counts.get('finished', 0)} of {sum(counts.values())} stages finished, {counts.get('running', 0)} running",
        *(f"{count} {state}" for state, count in failed.items()),
        f"{status.left} left",
    ]
    joules = f"{number(status.useful_energy_j)} J useful, {number(status.lost_energy_j)} J lost"
    budget = "".join(f", {100 * cap.share:.0f} % of {cap.unit} used" for cap in status.budget if cap.share is not None)
    return f"{', '.join(parts)}; {joules}{budget}"

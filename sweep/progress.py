"""What a person sees while a sweep runs: what is done, what runs, joules so far, time left."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

import ray
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis.estimate import RECENT
from analysis.status import counted
from energyaware.rows import Row
from sweep.budget import Keeper
from sweep.failures import Again
from sweep.node_meter import NodeMeters
from sweep.plan import PlannedStage
from sweep.tries import Tries

POLL_S: Final = 1.0


class Progress:
    """Listens to the schedule and asks the meters what is going on.

    On a terminal a live picture; elsewhere one line per event.

    Args:
        done: stages that are finished.
        failed: stages that failed in earlier runs.
        left: stages to run.
        meters: of the nodes.
        budget: is told what Progress learns, and shown.
        seen: called with what all meters say, about once a second.
        console: to print on.
    """

    def __init__(
        self,
        done: int,
        failed: int,
        left: Collection[Tries],
        meters: NodeMeters,
        budget: Keeper,
        seen: Callable[[Sequence[dict[str, Any]]], None],
        console: Console,
    ) -> None:
        self._total, self._done, self._failed, self._blocked = done + failed + len(left), done, failed, 0
        self._meters, self._budget, self._seen, self._console = meters, budget, seen, console
        self._left = {tries.stage.stage_id: tries.stage for tries in left}
        self._left_of_kind = Counter(tries.stage.spec.kind for tries in left)
        self._durations: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._energy_j, self._kinds = 0.0, set[str]()
        self._running: dict[str, float] = {}
        self._now: dict[str, tuple[str, float]] = {}
        self._trouble: list[str] = []
        self._refused = 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._live: Live | None = None

    @property
    def failed(self) -> int:
        """Stages that ended without a result, or could not start because of one."""
        return self._failed + self._blocked

    def states(self) -> dict[str, int]:
        """Number of stages by state."""
        with self._lock:
            return {
                "finished": self._done,
                "running": len(self._running),
                "waiting": len(self._left) - len(self._running),
                "failed": self.failed,
            }

    def skip(self, stage_ids: Collection[str]) -> None:
        """These are not to be run after all."""
        with self._lock:
            kinds = [stage.spec.kind for stage_id in stage_ids if (stage := self._left.pop(stage_id, None))]
            self._left_of_kind.subtract(kinds)
            self._total -= len(kinds)
            line = f"funnel: {counted(len(kinds), 'stage')} of precisions that are not among the best skipped"
        self._console.print(line, highlight=False, soft_wrap=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._picture, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        threading.Thread(target=self._poll, daemon=True).start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        if self._live:
            self._live.stop()

    def __call__(self, event: str, stage: PlannedStage, ended: Row) -> None:
        """Take note of an event of the schedule."""
        if event == "started":
            self._budget.started(stage)
        else:
            self._budget.ended(stage, ended)
        with self._lock:
            if event == "started":
                self._running[stage.stage_id] = time.monotonic()
                return
            self._running.pop(stage.stage_id, None)
            self._now.pop(stage.stage_id, None)
            if event != "again" and stage.stage_id in self._left:
                del self._left[stage.stage_id]
                self._left_of_kind[stage.spec.kind] -= 1
            if event == "again" or ended["state"] in {"interrupted", "stopped"}:
                pass
            elif event == "blocked":
                self._blocked += 1
            elif ended["state"] == "finished":
                self._done += 1
                self._durations[stage.spec.kind].append(ended["duration_s"])
            else:
                self._failed += 1
            self._energy_j += ended.get("energy_j") or 0.0
            self._kinds |= {kind} if (kind := ended.get("energy_kind")) else set()
            line = self._line(stage, ended)
        self._console.print(line, highlight=False, soft_wrap=True)

    def _line(self, stage: PlannedStage, ended: Row) -> Text:
        finished = ended["state"] == "finished"
        line = Text(f"[{self._done:>{len(str(self._total))}}/{self._total}] ", style="bold")
        line.append(f"{stage.title:<34}", style="" if finished else "red")
        if again := ended.get("again"):
            return line.append(f" {ended['state']}: {ended['reason']}; {_how(again)}", style="yellow")
        if ended["state"] == "stopped":
            return line.append(f" stopped: {ended['reason']}", style="yellow")
        if not finished:
            return line.append(f" {ended['state']}: {ended.get('reason') or 'no reason given'}", style="red")
        energy = "? J" if ended["energy_j"] is None else f"{ended['energy_j']:,.0f} J"
        return line.append(f"{ended['duration_s']:7.1f} s {energy:>10}   {self._summary()}", style="dim")

    def _summary(self) -> str:
        kind = {frozenset(): "", frozenset({"measured"}): "", frozenset({"estimated"}): " (estimated)"}.get(
            frozenset(self._kinds), " (partly estimated)"
        )
        left = self._time_left_s()
        if not self._left:
            return f"{self._energy_j:,.0f} J{kind} in all"
        return f"{self._energy_j:,.0f} J{kind} so far, " + (
            f"~{_minutes(left)} left" if left is not None else "time left unknown yet"
        )

    def _time_left_s(self) -> float | None:
        """Median time of recent stages of each kind, for all that are left, over as many at once as run now."""
        left = {kind: count for kind, count in self._left_of_kind.items() if count}
        if not left.keys() <= self._durations.keys():
            return None
        known_s = {kind: statistics.median(self._durations[kind]) for kind in left}
        now_s = time.monotonic()
        spent_s = sum(
            min(now_s - since_s, known_s[self._left[stage_id].spec.kind]) for stage_id, since_s in self._running.items()
        )
        whole_s = sum(count * known_s[kind] for kind, count in left.items())
        return max(0.0, whole_s - spent_s) / max(1, len(self._now))

    def _picture(self) -> Group:
        with self._lock:
            table = Table.grid(padding=(0, 2))
            for stage_id in self._running:
                what, energy = "waiting for workers, or loading", ""
                if stage_id in self._now:
                    what, energy_j = self._now[stage_id]
                    energy = f"{energy_j:,.0f} J"
                table.add_row("  ", self._left[stage_id].title, what, energy)
            failed = f", {self.failed} failed" if self.failed else ""
            head = Table.grid(padding=(0, 1))
            head.add_row(
                ProgressBar(total=max(1, self._total), completed=self._done, width=30),
                f"{self._done} of {self._total} stages{failed}, {self._summary()}",
            )
            used = ", ".join(cap.line() for cap in self._budget.uses())
            budget = [Text(f"budget used: {used}", style="dim")] if used else []
            return Group(head, *budget, table, *(Text(trouble, style="red") for trouble in self._trouble))

    def _poll(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self._tell_refused()
                seen = self._now_at_meters()
            except Exception:  # noqa: S112
                continue
            with self._lock:
                self._trouble = [now["trouble"] for now in seen if now["trouble"]]
                self._now = {
                    stage_id: (
                        f"{window}{f' epoch {epoch}' if epoch else ''} {duration_s:.0f} s",
                        now["joules"][stage_id],
                    )
                    for now in seen
                    for stage_id, _, window, epoch, duration_s in now["open"]
                }
            self._seen(seen)

    def _tell_refused(self) -> None:
        """Say, once each, which nodes that joined are of no use."""
        for line in self._meters.refused()[self._refused :]:
            self._refused += 1
            self._console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def _now_at_meters(self) -> list[dict[str, Any]]:
        """What those say that answer: the meters of nodes that are gone do not."""
        asked = [meter.actor.now.remote() for meter in self._meters.started()]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=POLL_S * 5) if asked else ([], [])
        said = []
        for answer in answered:
            with suppress(ray.exceptions.RayError):
                said.append(ray.get(answer))
        return said


def _how(again: Again) -> str:
    """When, and with what, a stage is tried again."""
    when = f"trying again in {again.delay_s:g} s" if again.delay_s else "trying again"
    return when + (f" with micro-batches of {again.micro_batch_size}" if again.micro_batch_size else "")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"  # noqa: PLR2004

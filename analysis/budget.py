"""What a sweep may use, what it has used, and whether anything more may start.

What was spent is spent. Joules are those of all attempts, lost ones and those around windows too, and not those of idle
nodes; GPU-hours the GPUs that attempts held times their wall time; hours the wall time of runs, from the first to the
last reading of their meters, added up over all runs of the results; cost the price of the joules, PUE applied.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import polars as pl

from analysis.estimate import Effort, efforts, estimates
from analysis.load import Results
from analysis.printing import JOULES_PER_KWH, number
from analysis.spent import spent
from analysis.states import LEFT

SECONDS_PER_HOUR: Final = 3600.0

UNITS: Final = {"kwh": "kWh", "gpu_hours": "GPU-hours", "hours": "hours", "cost": ""}
"""What can be capped, by its key in the sweep file; the unit of cost is the currency."""

NOTHING: Final = Effort(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Caps:
    """What a sweep may use in all its runs together.

    Attributes:
        limits: by name (`UNITS`), in that unit.
        cost_per_kwh: PUE applied; None where no price is given.
        currency: of cost.
    """

    limits: Mapping[str, float]
    cost_per_kwh: float | None = None
    currency: str | None = None

    @classmethod
    def of_sweep(cls, asked: Mapping[str, Any]) -> Self:
        """From the keys `budget` and `energy` of a sweep file.

        Raises:
            ValueError, TypeError, AttributeError: they are not what a sweep file may have there.
        """
        energy, budget = asked.get("energy") or {}, asked.get("budget") or {}
        price, pue = energy.get("price_per_kwh"), float(energy.get("pue") or 1.0)
        limits = {name: float(budget[name]) for name in UNITS if budget.get(name) is not None}
        if not all(0 < limit < math.inf for limit in limits.values()):
            raise ValueError("a cap is a number above 0")
        return cls(limits, None if price is None else float(price) * pue, energy.get("currency"))

    def unit(self, name: str) -> str:
        """Of one of the caps."""
        return UNITS[name] or self.currency or "of money"

    def amount(self, name: str, effort: Effort) -> float | None:
        """An effort in the unit of one of the caps; None if that is not known."""
        kwh = None if effort.energy_j is None else effort.energy_j / JOULES_PER_KWH
        if name == "kwh":
            return kwh
        if name == "cost":
            return None if kwh is None or self.cost_per_kwh is None else kwh * self.cost_per_kwh
        seconds = effort.gpu_s if name == "gpu_hours" else effort.duration_s
        return None if seconds is None else seconds / SECONDS_PER_HOUR

    def exceeded(self, used: Effort, need: Effort | None) -> tuple[str, ...]:
        """The caps that a stage would exceed.

        One whose need is not known exceeds those of which nothing is left. What is used and cannot be told exceeds any
        cap: a budget that nobody can keep is none.
        """
        names = []
        for name, limit in self.limits.items():
            before = self.amount(name, used)
            more = (self.amount(name, need) if need else None) or 0.0
            if before is None or before >= limit or before + more > limit:
                names.append(name)
        return tuple(names)


@dataclass(frozen=True)
class Spending:
    """What attempts and runs have used so far.

    Attributes:
        energy_j: known joules.
        known_s: wall time of the attempts whose joules are known.
        unknown_s: of the others.
        finished_unknown: whether one of these others finished its stage.
        gpu_s: GPUs held times wall time.
        wall_s: of runs.
    """

    energy_j: float = 0.0
    known_s: float = 0.0
    unknown_s: float = 0.0
    finished_unknown: bool = False
    gpu_s: float = 0.0
    wall_s: float = 0.0

    def plus(self, energy_j: float | None, duration_s: float, gpu_s: float, *, finished: bool) -> "Spending":
        """With one attempt more."""
        known = energy_j is not None
        return Spending(
            self.energy_j + (energy_j or 0.0),
            self.known_s + duration_s * known,
            self.unknown_s + duration_s * (not known),
            self.finished_unknown or (finished and not known),
            self.gpu_s + gpu_s,
            self.wall_s,
        )

    @property
    def effort(self) -> Effort:
        """All of it. Attempts whose joules are not known count with the mean power of the others.

        While no other is known, those that ended before their end count nothing, and with any that finished the joules
        are not known: meters cannot be read here.
        """
        if not self.unknown_s:
            return Effort(self.energy_j, self.gpu_s, self.wall_s)
        if self.known_s:
            return Effort(self.energy_j * (1 + self.unknown_s / self.known_s), self.gpu_s, self.wall_s)
        return Effort(None if self.finished_unknown else self.energy_j, self.gpu_s, self.wall_s)


def spending(results: Results) -> Spending:
    """What a results folder says of all its attempts and runs, of one that is at work up to its last heartbeat."""
    gpu_s = pl.coalesce("gpu_s", pl.col("workers") * pl.col("duration_s"))  # not metered: a worker holds one at most
    ends = pl.col("started_at") + pl.duration(microseconds=1e6 * pl.col("duration_s"))
    attempts, gpus, runs = pl.collect_all(
        [
            spent(results).with_columns(all_j=pl.col("energy_j") + pl.col("checkpointed_j")),
            efforts(results).select(gpu_s.sum()),
            results.nodes.drop_nulls(["started_at", "duration_s"])
            .group_by("run")
            .agg(wall=ends.max() - pl.col("started_at").min()),
        ]
    )
    known, unknown = attempts.filter(pl.col("all_j").is_not_null()), attempts.filter(pl.col("all_j").is_null())
    return Spending(
        float(known["all_j"].sum()),
        float(known["duration_s"].sum()),
        float(unknown["duration_s"].sum()),
        bool((unknown["fate"] == "useful").any()),
        float(gpus["gpu_s"].sum()),
        float(runs["wall"].dt.total_microseconds().sum()) / 1e6,
    )


@dataclass(frozen=True)
class CapUse:
    """One cap and what is used of it; `used` and `share` are None where that cannot be told."""

    name: str
    unit: str
    limit: float
    used: float | None
    share: float | None

    def text(self) -> str:
        """Such as `0.8 of 1 kWh`."""
        return f"{number(self.used)} of {number(self.limit)} {self.unit}"

    def line(self) -> str:
        """The same with its share, such as `0.8 of 1 kWh (80 %)`."""
        return self.text() + ("" if self.share is None else f" ({100 * self.share:.0f} %)")


def uses(caps: Caps, used: Effort) -> list[CapUse]:
    """What is used of each cap."""
    amounts = {name: caps.amount(name, used) for name in caps.limits}
    return [
        CapUse(name, caps.unit(name), limit, amount, None if amount is None else amount / limit)
        for (name, limit), amount in zip(caps.limits.items(), amounts.values(), strict=True)
    ]


def stopped(caps: Caps, used: Effort, ready: Collection[Effort | None], left: Sequence[Effort | None]) -> str | None:
    """Why nothing more may start, in one line; None while something may.

    Args:
        caps: what may be used.
        used: so far.
        ready: estimates of the stages whose inputs are there; None is unknown.
        left: of all stages without a result that are to have one.
    """
    refused = [caps.exceeded(used, need) for need in ready]
    if not refused or not all(refused):
        return None
    names = [name for name in caps.limits if any(name in exceeded for exceeded in refused)]
    told = " and ".join(use.text() for use in uses(caps, used) if use.name in names)
    needed = [_needed(caps, name, left) for name in names]
    stages = f"{len(left)} stage{'' if len(left) == 1 else 's'} left"
    return f"stopped by the budget: {told} used, {stages}, {' and '.join(needed)} needed"


def _needed(caps: Caps, name: str, left: Sequence[Effort | None]) -> str:
    amounts = [None if need is None else caps.amount(name, need) for need in left]
    known = [amount for amount in amounts if amount is not None]
    if not known:
        return f"unknown {caps.unit(name)}"
    more = "" if len(known) == len(left) else f" for {len(known)} of them"
    of_stages = " of stages" if name == "hours" else ""  # how many of them run at once is not known here
    return f"~{number(sum(known))} {caps.unit(name)}{of_stages}{more}"


@dataclass(frozen=True)
class Standing:
    """How a sweep stands to its budget: `caps` with what is used of each, and why nothing more may start, else None."""

    caps: list[CapUse]
    stopped: str | None


def standing(results: Results, stages: pl.DataFrame) -> Standing:
    """Of the results of a sweep, whose caps are those of the sweep file that is kept with them.

    Args:
        results: of the sweep.
        stages: what became of its stages (`analysis.states.states`).
    """
    caps = caps_of(results)
    if not caps.limits:
        return Standing([], None)
    learnt, used = estimates(results), spending(results).effort
    left = stages.filter(pl.col("state").is_in(LEFT)).select("stage_id", "kind", "needs")
    rows = left.join(results.plan.select("stage_id", "settings").collect(), on="stage_id", how="left").to_dicts()
    finished = set(stages.filter(state="finished")["stage_id"])
    needs = {row["stage_id"]: estimate.effort if (estimate := learnt.of(row)) else None for row in rows}
    ready = [needs[row["stage_id"]] for row in rows if finished.issuperset(row["needs"] or ())]
    return Standing(uses(caps, used), stopped(caps, used, ready, list(needs.values())))


def caps_of(results: Results) -> Caps:
    """Those of the sweep file that is kept with the results; none where there is none, or none that can be read."""
    import yaml

    try:
        asked = yaml.safe_load((results.folder / "sweep.yaml").read_text(encoding="utf-8"))
        return Caps.of_sweep({} if asked is None else asked)
    except FileNotFoundError:
        return Caps({})
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, yaml.YAMLError):
        results.problems.append("sweep.yaml: cannot be read; its budget is not known")
        return Caps({})

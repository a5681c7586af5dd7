"""Whether the joules of a node add up: its stages, its idle time and what belongs to neither make up the whole."""

from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from analysis.printing import number

_DIFFERENCE: Final = 0.005
"""Share of a node's joules that its parts may miss or exceed."""

_PARTS: Final = ["stages_j", "idle_j", "unattributed_j"]


@dataclass(frozen=True)
class Node:
    """The joules of one machine over all runs and components; None where any part is unknown.

    Attributes:
        energy_j: from the first to the last reading of each run.
        stages_j: of these, in windows of stages.
        idle_j: of these, idle.
        unattributed_j: of these, of no stage and not idle.
        difference: share of energy_j that the three parts exceed, or miss if negative.
        adds_up: whether the difference is known and small, that of every run, component and device too.
        reason: why it does not add up, else None.
        rows: the node's rows of the nodes table.
    """

    node: str
    energy_j: float | None
    stages_j: float | None
    idle_j: float | None
    unattributed_j: float | None
    difference: float | None
    adds_up: bool
    reason: str | None
    rows: list[dict[str, Any]]

    def line(self) -> str:
        """The sum in one line, for people."""
        difference = "unknown" if self.difference is None else f"{100 * abs(self.difference):.2f} %"
        return (
            f"{self.node}: {number(self.energy_j)} J = stages {number(self.stages_j)} + idle {number(self.idle_j)}"
            f" + unattributed {number(self.unattributed_j)} (difference {difference})"
            + ("" if self.reason is None else f": {self.reason}")
        )


def add_up(rows: pl.DataFrame) -> list[Node]:
    """Each node of the nodes table, by name."""
    known = rows.with_columns(pl.col("energy_j", *_PARTS, "difference").fill_nan(None)).sort(
        "node", "run", "component", "device"
    )
    return [_node(str(name), part) for (name,), part in known.group_by("node", maintain_order=True)]


def _node(name: str, rows: pl.DataFrame) -> Node:
    sums = {column: _known_sum(rows[column]) for column in ("energy_j", *_PARTS)}
    difference = _difference(sums["energy_j"], [sums[part] for part in _PARTS])
    faults = [fault for row in rows.iter_rows(named=True) if (fault := _fault(row))]
    reason = "; ".join(dict.fromkeys(faults)) or None
    if reason is None and (difference is None or abs(difference) > _DIFFERENCE):
        reason = "its components do not add up"
    return Node(node=name, **sums, difference=difference, adds_up=reason is None, reason=reason, rows=rows.to_dicts())


def _fault(row: dict[str, Any]) -> str | None:
    """Why one channel of one run does not add up, or None."""
    channel = " ".join(filter(None, [row["component"], row["device"]]))
    difference = _difference(row["energy_j"], [row[part] for part in _PARTS])
    if difference is None:
        return f"{channel}: {row['reason'] or 'unknown, no reason recorded'}"
    if abs(difference) > _DIFFERENCE:
        return f"{channel} differs by {100 * difference:+.2g} %"
    return None


def _difference(energy_j: float | None, parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    if energy_j is None or len(known) < len(parts):
        return None
    excess_j = sum(known) - energy_j
    return excess_j / energy_j if energy_j else (None if excess_j else 0.0)


def _known_sum(energies: pl.Series) -> float | None:
    return None if energies.null_count() else float(energies.sum())

"""Sums over windows of an attempt; None where any part is unknown, for a sum with an unknown part is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from energyaware.energy.window import AROUND
from energyaware.rows import Row


@dataclass(frozen=True)
class Totals:
    """Sums over rows of the energy table. All are over the attempt's windows, and `other_j` over the time around them.

    `kind` says what `energy_j` is: measured, estimated, or mixed, which is a sum of both.
    """

    energy_j: float | None
    other_j: float | None
    kind: str | None
    measured_j: float | None
    estimated_j: float | None
    net_j: float | None
    carbon_g: float | None
    cost: float | None
    marks: tuple[str, ...]

    @classmethod
    def of(cls, energy: Sequence[Row]) -> Totals:
        """Of these rows; all unknown without any."""
        if not energy:
            return cls(None, None, None, None, None, None, None, None, ())
        windows = [row for row in energy if row["window"] not in AROUND]
        return cls(
            known_sum(row["energy_j"] for row in windows),
            known_sum(row["energy_j"] for row in energy if row["window"] in AROUND),
            _kind(energy),
            known_sum(row["energy_j"] for row in windows if row["measured"]),
            known_sum(row["energy_j"] for row in windows if not row["measured"]),
            known_sum(row["energy_net_j"] for row in windows),
            known_sum(row["carbon_g"] for row in windows),
            known_sum(row["cost"] for row in windows),
            tuple(dict.fromkeys(f"{row['window']}: {mark}" for row in windows for mark in row["marks"])),
        )

    @property
    def all_j(self) -> float | None:
        """Joules of its windows and of the time around them."""
        return known_sum((self.energy_j, self.other_j))

    def columns(self) -> Row:
        """As columns of the stages and attempts tables."""
        return {
            "energy_j": self.energy_j,
            "energy_other_j": self.other_j,
            "energy_kind": self.kind,
            "energy_measured_j": self.measured_j,
            "energy_estimated_j": self.estimated_j,
            "energy_net_j": self.net_j,
            "carbon_g": self.carbon_g,
            "cost": self.cost,
            "measured": None if self.kind is None else self.kind == "measured",
            "marks": list(self.marks),
        }


def of_window(energy: Sequence[Row], window: str, epoch: int | None = None) -> list[Row]:
    """Rows of one kind of window, over all its repeats."""
    return [row for row in energy if row["window"] == window and row["epoch"] == epoch]


def per_request(energy: Sequence[Row], column: str = "energy_j") -> float | None:
    """Joules of prefill per ticket read plus joules of decode per ticket answered, over all repeats.

    None if any part is unknown, or where nothing was prefilled.
    """
    parts = []
    for window in ("prefill", "decode"):
        rows = of_window(energy, window)
        # The whole gang's requests stand in the rows of every node and component.
        requests = {row["repeat"]: row["requests"] or 0 for row in rows}
        if total := sum(requests.values()):
            energy_j = known_sum(row[column] for row in rows)
            parts.append(None if energy_j is None else energy_j / total)
    return known_sum(parts) if parts else None


def known_sum(values: Iterable[float | None]) -> float | None:
    """The sum, or None if any value is."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _kind(energy: Sequence[Row]) -> str:
    kinds = {bool(row["measured"]) for row in energy}
    return "mixed" if len(kinds) > 1 else "measured" if kinds == {True} else "estimated"

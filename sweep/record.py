"""What an attempt leaves in the results folder: its rows, in the order that makes a torn record impossible."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from energyaware.energy.base import JOULES_PER_KWH
from energyaware.rows import Row
from energyaware.spec import canonical_json
from energyaware.stage import Outcome
from energyaware.store import Store
from sweep.plan import PlannedStage, configuration_columns


@dataclass(frozen=True)
class Attempt:
    """One execution of a stage, from when it started."""

    stage: PlannedStage
    number: int
    workers: int
    nodes: tuple[str, ...]
    started_at: datetime

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.stage.stage_id}-{self.number}"


@dataclass(frozen=True)
class Totals:
    """Sums over windows; None where any part is unknown, for a sum with an unknown part is unknown."""

    energy_j: float | None
    carbon_g: float | None
    measured: bool | None

    @property
    def carbon_g_per_kwh(self) -> float | None:
        """Emission factor that the carbon was computed with."""
        return self.carbon_g / self.energy_j * JOULES_PER_KWH if self.energy_j and self.carbon_g is not None else None

    @classmethod
    def of(cls, energy: Sequence[Row]) -> "Totals":
        """Of these rows of the energy table."""
        return cls(
            _sum(row["energy_j"] for row in energy) if energy else None,
            _sum(row["carbon_g"] for row in energy) if energy else None,
            all(row["measured"] for row in energy) if energy else None,
        )


def record_finished(
    store: Store, attempt: Attempt, outcome: Outcome, energy: list[Row], *, sweep: str, pue: float
) -> Row:
    """Write all rows of an attempt that finished its stage, the stage's own row last. Returns that row."""
    finished_at = datetime.now(UTC)
    totals = Totals.of(energy)
    stage_id, number = attempt.stage.stage_id, attempt.number
    epochs = [
        {
            **epoch,
            "energy_j": (part := Totals.of(_of_window(energy, "train", epoch["epoch"]))).energy_j,
            "measured": part.measured,
            "duration_s": _duration_s(_of_window(energy, "train", epoch["epoch"])),
            "stage_id": stage_id,
            "attempt": number,
            "kept": True,
        }
        for epoch in outcome.epochs
    ]
    store.write_rows("energy", attempt.name, energy)
    store.write_rows("epochs", attempt.name, epochs)
    store.write_rows(
        "quality", attempt.name, [{**row, "stage_id": stage_id, "attempt": number} for row in outcome.quality]
    )
    _write_attempt(store, attempt, totals, finished_at, state="finished", kept=True)
    row = {
        "stage_id": stage_id,
        "kind": attempt.stage.spec.kind,
        "state": "finished",
        "attempt": number,
        "sweep": sweep,
        "needs": list(attempt.stage.spec.needs),
        **configuration_columns(attempt.stage.spec),
        **outcome.columns,
        "energy_j": totals.energy_j,
        "energy_j_per_request": energy_per_request(energy, outcome.columns),
        "carbon_g": totals.carbon_g,
        "carbon_g_per_kwh": totals.carbon_g_per_kwh,
        "pue": pue,
        "measured": totals.measured,
        "duration_s": (finished_at - attempt.started_at).total_seconds(),
        "started_at": attempt.started_at,
        "finished_at": finished_at,
        "workers": attempt.workers,
        "nodes": list(attempt.nodes),
    }
    store.commit_stage(row)
    return row


def record_unfinished(
    store: Store, attempt: Attempt, energy: list[Row], *, state: str, reason: str, traceback: str | None = None
) -> Row:
    """Write the rows of an attempt that did not finish; its joules are kept, as lost. Returns the attempt's row."""
    store.write_rows("energy", attempt.name, energy)
    return _write_attempt(
        store,
        attempt,
        Totals.of(energy),
        datetime.now(UTC),
        state=state,
        kept=False,
        reason=reason,
        traceback=traceback,
    )


def energy_per_request(energy: Sequence[Row], columns: Row) -> float | None:
    """Joules of prefill per ticket read plus joules of decode per ticket answered; None if any part is unknown."""
    parts = []
    for window in ("prefill", "decode"):
        if requests := columns.get(f"{window}_requests"):
            energy_j = Totals.of(_of_window(energy, window)).energy_j
            parts.append(None if energy_j is None else energy_j / requests)
    return _sum(parts) if parts else None


def _write_attempt(
    store: Store,
    attempt: Attempt,
    totals: Totals,
    finished_at: datetime,
    *,
    state: str,
    kept: bool,
    reason: str | None = None,
    traceback: str | None = None,
) -> Row:
    row = {
        "stage_id": attempt.stage.stage_id,
        "attempt": attempt.number,
        "kind": attempt.stage.spec.kind,
        "state": state,
        "reason": reason,
        "traceback": traceback,
        "started_at": attempt.started_at,
        "finished_at": finished_at,
        "duration_s": (finished_at - attempt.started_at).total_seconds(),
        "energy_j": totals.energy_j,
        "kept": kept,
        "measured": totals.measured,
        "workers": attempt.workers,
        "nodes": list(attempt.nodes),
        "settings": canonical_json(attempt.stage.spec),
    }
    store.write_rows("attempts", attempt.name, [row])
    return row


def _of_window(energy: Sequence[Row], window: str, epoch: int | None = None) -> list[Row]:
    return [row for row in energy if row["window"] == window and row["epoch"] == epoch]


def _duration_s(energy: Sequence[Row]) -> float | None:
    return max((row["duration_s"] for row in energy), default=None)


def _sum(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total

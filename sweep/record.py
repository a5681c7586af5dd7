"""What an attempt leaves in the results folder: its rows, in the order that makes a torn record impossible."""

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from datetime import UTC, datetime

from energyaware.energy.carbon import Factors
from energyaware.energy.holder import Key
from energyaware.errors import StoppedEarly
from energyaware.points import reached
from energyaware.rows import Row
from energyaware.spec import canonical_json
from energyaware.stage import Outcome
from energyaware.store import Store
from sweep.carry import carry, progress, trained_before
from sweep.plan import PlannedStage, configuration_columns
from sweep.totals import Totals, of_window, per_request


@dataclass(frozen=True)
class Attempt:
    """One execution of a stage, from when it started."""

    stage: PlannedStage
    number: int
    workers: int
    nodes: tuple[str, ...]
    started_at: datetime
    micro_batch_size: int | None = None

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.stage.stage_id}-{self.number}"

    @property
    def key(self) -> Key:
        """By which meters know it."""
        return self.stage.stage_id, self.number

    @property
    def about(self) -> Row:
        """Its columns of the attempts table that are known from the start."""
        return {
            "stage_id": self.stage.stage_id,
            "attempt": self.number,
            "kind": self.stage.spec.kind,
            "started_at": self.started_at,
            "workers": self.workers,
            "micro_batch_size": self.micro_batch_size,
            "nodes": list(self.nodes),
            "settings": canonical_json(self.stage.spec),
        }


def record_finished(
    store: Store,
    attempt: Attempt,
    outcome: Outcome,
    energy: list[Row],
    *,
    sweep: str,
    factors: Factors,
    replace: bool = False,
) -> Row:
    """Write all rows of an attempt that finished its stage, the stage's own row last.

    Returns that row, and beside it the joules of this attempt alone, `energy_spent_j`.

    Args:
        store: the results.
        attempt: which.
        outcome: what it found out.
        energy: rows of its windows.
        sweep: name of the sweep.
        factors: of carbon and cost.
        replace: take the place of a result that is there.
    """
    finished_at = datetime.now(UTC)
    stage_id, number = attempt.stage.stage_id, attempt.number
    carried = carry(store, stage_id, outcome.carried, number)
    store.write_rows("energy", attempt.name, energy)
    reached("energy-written")
    own, everything = Totals.of(energy), [*carried, *energy]
    totals = replaced(Totals.of(everything), other_j=own.other_j)
    store.write_rows("epochs", attempt.name, _epochs(attempt, outcome.epochs, everything, kept=True))
    store.write_rows(
        "quality", attempt.name, [{**row, "stage_id": stage_id, "attempt": number} for row in outcome.quality]
    )
    came_from = {"from_step": max((part.to_step for part in outcome.carried), default=None)}
    _write_attempt(store, attempt, own, finished_at, state="finished", kept=True, also=came_from)
    reached("attempt-written")
    row = {
        "stage_id": stage_id,
        "kind": attempt.stage.spec.kind,
        "state": "finished",
        "attempt": number,
        "sweep": sweep,
        "needs": list(attempt.stage.spec.needs),
        **configuration_columns(attempt.stage.spec),
        **outcome.columns,
        **totals.columns(),
        "carried_attempts": len(outcome.carried),
        "energy_j_per_request": per_request(energy),
        "energy_net_j_per_request": per_request(energy, "energy_net_j"),
        "carbon_g_per_kwh": factors.carbon_g_per_kwh,
        "carbon_source": factors.carbon_source,
        "pue": factors.pue,
        "price_per_kwh": factors.price_per_kwh,
        "currency": factors.currency,
        "duration_s": (finished_at - attempt.started_at).total_seconds(),
        "started_at": attempt.started_at,
        "finished_at": finished_at,
        "workers": attempt.workers,
        "nodes": list(attempt.nodes),
    }
    store.commit_stage(row, replace=replace)
    return row | {"energy_spent_j": own.all_j}


def record_unfinished(
    store: Store, attempt: Attempt, energy: list[Row], *, state: str, reason: str, traceback: str | None = None
) -> Row:
    """Write the rows of an attempt that did not finish; its joules are kept, as lost.

    Returns the attempt's row, and beside it the joules of this attempt alone, `energy_spent_j`.
    """
    store.write_rows("energy", attempt.name, energy)
    came_to = progress(store, attempt.stage.stage_id, attempt.number)
    if state == StoppedEarly.state:
        earlier = trained_before(store, attempt.stage.stage_id, attempt.number)
        store.write_rows("epochs", attempt.name, _epochs(attempt, came_to.epochs, [*earlier, *energy], kept=False))
    return _write_attempt(
        store,
        attempt,
        Totals.of(energy),
        datetime.now(UTC),
        state=state,
        kept=False,
        reason=reason,
        traceback=traceback,
        also=came_to.columns(energy),
    )


def _epochs(attempt: Attempt, epochs: Sequence[Row], energy: Sequence[Row], *, kept: bool) -> list[Row]:
    """Rows of the epochs table, given the rows of energy of all that the attempt trained or went on from."""
    return [
        {
            **epoch,
            "energy_j": (part := Totals.of(of_window(energy, "train", epoch["epoch"]))).energy_j,
            "measured": None if part.kind is None else part.kind == "measured",
            "duration_s": _duration_s(of_window(energy, "train", epoch["epoch"])),
            "stage_id": attempt.stage.stage_id,
            "attempt": attempt.number,
            "kept": kept,
        }
        for epoch in epochs
    ]


def _write_attempt(
    store: Store,
    attempt: Attempt,
    totals: Totals,
    finished_at: datetime,
    *,
    state: str,
    kept: bool,
    also: Row,
    reason: str | None = None,
    traceback: str | None = None,
) -> Row:
    row = {
        **attempt.about,
        **also,
        "state": state,
        "reason": reason,
        "traceback": traceback,
        "finished_at": finished_at,
        "duration_s": (finished_at - attempt.started_at).total_seconds(),
        **totals.columns(),
        "kept": kept,
    }
    store.write_rows("attempts", attempt.name, [row])
    return row | {"energy_spent_j": totals.all_j}


def _duration_s(energy: Sequence[Row]) -> float | None:
    """Of windows one after another; one window stands in the rows of every node and component."""
    lengths: dict[tuple[int, int | None], float] = {}
    for row in energy:
        window = row["attempt"], row["from_step"]
        lengths[window] = max(lengths.get(window, 0.0), row["duration_s"])
    return sum(lengths.values()) if lengths else None

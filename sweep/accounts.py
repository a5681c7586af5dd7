"""Accounts of attempts that can no longer give their own: how they ended, and the joules that they took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cluster.presence import absent
from energyaware.errors import StorageError
from sweep.carry import read_rows
from sweep.node_meter import NodeMeters, end_lost, forget
from sweep.record import Attempt, record_unfinished
from sweep.recover import forget_checkpoints, take_over

if TYPE_CHECKING:
    from energyaware.rows import Row
    from energyaware.store import Store
    from sweep.plan import PlannedStage
    from sweep.tries import Tries


class Accounts:
    """Kept by the driver.

    Args:
        store: the results.
        workers: of a gang, by kind of stage.
        meters: of the nodes.
    """

    def __init__(self, store: Store, workers: Mapping[str, int], meters: NodeMeters) -> None:
        self._store, self._workers, self._meters = store, workers, meters

    def of_dead(self, stage: PlannedStage, number: int) -> Row:
        """How an attempt ended whose actor can no longer say so. Records it where that is still to be done."""
        nothing: Row = {"energy_j": None, "energy_kind": None, "duration_s": 0.0}
        for row in read_rows(self._store, "attempts", stage.stage_id, number):  # its last words before it went
            if row["state"] != "finished":
                return row | {"failure": "lost node" if row["state"] == "interrupted" else "error"}
            if stage.stage_id in self._store.finished():
                return row | {"failure": None}
            return row | {"state": "failed", "reason": "its actor died before the result was in", "failure": "error"}
        if gone := absent(self._meters.node_ids):
            names = ", ".join(self._meters.name_of(node) for node in gone)
            ended: Row = {"state": "interrupted", "reason": f"{names} was lost", "failure": "lost node"}
        else:
            ended = {"state": "failed", "reason": "the stage's actor died", "failure": "error"}
        return nothing | self._record(stage, number, ended["state"], ended["reason"]) | ended

    def close(self, running: Iterable[Tries]) -> None:
        """Record what was running when the run was stopped, and how the nodes add up."""
        recorded = self._store.attempt_keys()
        for tries in running:
            if (tries.stage.stage_id, tries.attempt) not in recorded:
                self._record(tries.stage, tries.attempt, "interrupted", "the run was stopped")
        take_over(self._store, self._meters.finish())
        with suppress(StorageError):
            forget_checkpoints(self._store)
            self._store.clear_incoming()

    def _record(self, stage: PlannedStage, number: int, state: str, reason: str) -> Row:
        """Record an attempt in place of its actor; nothing if it was waiting for workers."""
        key, meters = (stage.stage_id, number), self._meters.all()
        energy = end_lost(meters, key, self._store)
        row: Row = {}
        if energy or state != "interrupted":
            started_at = min((row["started_at"] for row in energy), default=datetime.now(UTC))
            nodes = tuple(dict.fromkeys(row["node"] for row in energy))
            attempt = Attempt(stage, number, self._workers[stage.spec.kind], nodes, started_at)
            row = record_unfinished(self._store, attempt, energy, state=state, reason=reason)
        forget(meters, key)
        return row

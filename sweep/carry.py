"""Joules of interrupted attempts that are not lost: those of training that a later attempt went on from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from energyaware.checkpoint_store import last_committed
from energyaware.rows import Row
from energyaware.stage import Carried
from energyaware.store import Store
from sweep.totals import Totals


@dataclass(frozen=True)
class Progress:
    """How far an attempt that ended without a result had come.

    Attributes:
        from_step: optimizer steps of earlier attempts that it went on from; None if it had no checkpoint to go on from.
        checkpoint_step: optimizer steps in its last committed checkpoint; None without one.
        epochs: that the checkpoint holds, those of earlier attempts too.
    """

    from_step: int | None
    checkpoint_step: int | None
    epochs: Sequence[Row] = ()

    def columns(self, energy: Sequence[Row]) -> Row:
        """As columns of the attempts table, given the attempt's rows of energy."""
        carried: list[Row] = []
        if self.checkpoint_step is not None:
            carried = list(_trained(energy, self.from_step or 0, self.checkpoint_step))
        return {
            "from_step": self.from_step,
            "checkpoint_step": self.checkpoint_step,
            "energy_carried_j": Totals.of(carried).energy_j if carried else None,
        }


def progress(store: Store, stage_id: str, attempt: int) -> Progress:
    """From the last checkpoint that an attempt left, or that it found."""
    last = last_committed(store.files, stage_id)
    if last is None:
        return Progress(None, None)
    for number, from_step, to_step in last["attempts"]:
        if number == attempt:
            return Progress(from_step, to_step, last["epochs"])
    return Progress(last["step"], None)


def trained_before(store: Store, stage_id: str, attempt: int) -> list[Row]:
    """Rows of energy of earlier attempts, of the training that the stage's last checkpoint holds."""
    last = last_committed(store.files, stage_id)
    return [
        row
        for number, from_step, to_step in (last["attempts"] if last else ())
        if number < attempt
        for row in _trained(read_rows(store, "energy", stage_id, number), from_step, to_step)
    ]


def carry(store: Store, stage_id: str, carried: Sequence[Carried], attempt: int) -> list[Row]:
    """Say in the rows of earlier attempts what of them the attempt that finishes a stage goes on from.

    It may be interrupted at any point, and is then done again by the attempt that comes next.

    Returns:
        Their rows of energy that are part of the stage's result.
    """
    parts = {part.attempt: part for part in carried}
    rows = []
    for number in range(1, attempt):
        name = f"{stage_id}-{number}"
        energy, told = read_rows(store, "energy", stage_id, number), read_rows(store, "attempts", stage_id, number)
        part = parts.get(number)
        kept = list(_trained(energy, part.from_step, part.to_step)) if part else []
        if not kept and not any(row["kept"] for row in energy) and not any(row["energy_carried_j"] for row in told):
            continue
        chosen = {id(row) for row in kept}
        for row in energy:
            row["kept"] = id(row) in chosen
        store.write_rows("energy", name, energy)
        joules = Totals.of(kept).energy_j if kept else None
        store.write_rows("attempts", name, [row | {"energy_carried_j": joules, "kept": False} for row in told])
        rows += kept
    return rows


def _trained(energy: Iterable[Row], from_step: int, to_step: int) -> Iterator[Row]:
    """Rows of the windows in which these optimizer steps were taken, and what they led to was evaluated."""
    for row in energy:
        at = row["from_step"]
        if at is None:
            continue
        trained = row["window"] == "train" and from_step <= at < to_step
        if trained or (row["window"] == "evaluate" and from_step < at <= to_step):
            yield row


def read_rows(store: Store, table: str, stage_id: str, attempt: int) -> list[Row]:
    """Rows of one attempt, wherever they are by now."""
    own = f"{table}/{stage_id}-{attempt}.parquet"
    compacted = (name for name in store.files.names(table) if "/compacted-" in name)
    for name in (own, *sorted(compacted, reverse=True)):
        try:
            content = store.files.read(name)
        except FileNotFoundError:
            continue
        wanted = [("stage_id", "=", stage_id), ("attempt", "=", attempt)]
        rows: list[Row] = pq.read_table(pa.BufferReader(content), filters=wanted).to_pylist()
        if rows:
            return [dict.fromkeys(_columns(table)) | row for row in rows]  # older schemas have fewer
    return []


def _columns(table: str) -> list[str]:
    from energyaware.rows import COLUMNS

    return [column.name for column in COLUMNS[table]]

"""What was killed leaves behind: ledgers become rows of the tables, as lost; checkpoints of no use are removed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from energyaware.checkpoint_store import FOLDER as CHECKPOINTS
from energyaware.checkpoint_store import Checkpoints
from energyaware.energy.holder import Key
from energyaware.energy.ledger_file import LedgerPlace, read_ledger
from energyaware.points import reached
from energyaware.rows import Row
from energyaware.store import Store
from sweep.carry import progress
from sweep.totals import Totals


def saved_rows(store: Store, key: Key, node: str) -> list[Row]:
    """What meters of a node that died had saved of an attempt."""
    saved = _distinct(ledger for place in store.ledgers() if (ledger := _readable(place)) is not None)
    return [row for ledger in saved if ledger["node"] == node for row in _of(ledger, key)]


def take_over(store: Store, ledgers: Iterable[Row] | None = None) -> list[Row]:
    """Write what ledgers hold into the tables, each attempt without a row as interrupted. Returns those attempts' rows.

    It may be interrupted itself at any point, and is then done again: file names are the same, and rows of one window
    are one to a reader.

    Args:
        store: the results.
        ledgers: last words of meters that ended in good order, in place of what their files say.
    """
    spoken = {(ledger["run"], ledger["node"]): ledger for ledger in ledgers or ()}
    left = {place: ledger for place in store.ledgers() if (ledger := _readable(place)) is not None}
    superseded = {store.ledger(run, node) for run, node in spoken}  # not those that earlier meters of the node left
    written = [ledger for place, ledger in left.items() if place not in superseded]
    everything = _distinct([*written, *spoken.values()])
    attempts = {(about["stage_id"], about["attempt"]): about for ledger in everything for about in ledger["attempts"]}
    lost = []
    recorded = store.attempt_keys()
    for key, about in attempts.items():
        if key not in recorded:
            energy = [row for ledger in everything for row in _of(ledger, key)]
            last = max(ledger["written_at"] for ledger in everything if key in _keys(ledger))
            lost.append(_record(store, about, energy, last))
    for ledger in everything:
        name = f"{ledger['run']}-{ledger['node']}-{ledger['written_at']:%Y%m%dT%H%M%S%f}"
        store.write_rows("energy", f"node-{name}", [row for row in ledger["energy"] if row["stage_id"] is None])
        store.write_rows("nodes", name, ledger["nodes"])
    reached("taken-over")
    for place in left:
        place.remove()
    return lost


def forget_checkpoints(store: Store) -> None:
    """Remove the checkpoints of finished stages, which whoever finished them did not live to do.

    Those of attempts after the one that finished the stage stay: a run that measures it again goes on from them.
    """
    left = {PurePosixPath(name).parts[1] for name in store.files.names(CHECKPOINTS)}
    for stage_id in left & store.finished() if left else ():
        checkpoints = Checkpoints(store.files, stage_id)
        newest = checkpoints.newest()
        if newest is None or newest.attempts[0][0] <= store.stage_row(stage_id)["attempt"]:
            checkpoints.remove()


def _record(store: Store, about: Row, energy: list[Row], last: Any) -> Row:
    name = f"{about['stage_id']}-{about['attempt']}"
    row = {
        **about,
        "state": "interrupted",
        "reason": f"the run ended without a word; last heartbeat {last:%Y-%m-%d %H:%M:%S} UTC",
        "finished_at": last,
        "duration_s": (last - about["started_at"]).total_seconds(),
        "kept": False,
        **progress(store, about["stage_id"], about["attempt"]).columns(energy),
        **Totals.of(energy).columns(),
    }
    store.write_rows("energy", name, energy)
    store.write_rows("attempts", name, [row])
    return row


def _readable(place: LedgerPlace) -> Row | None:
    """A file that is no ledger stays where it is: `status` names it."""
    try:
        return read_ledger(place)
    except (FileNotFoundError, ValueError):
        return None


def _distinct(ledgers: Iterable[Row]) -> list[Row]:
    """Each ledger once: one that was being set aside lies under two names."""
    return list({(ledger["run"], ledger["node"], ledger["written_at"]): ledger for ledger in ledgers}.values())


def _of(ledger: Row, key: Key) -> list[Row]:
    return [row for row in ledger["energy"] if (row["stage_id"], row["attempt"]) == key]


def _keys(ledger: Row) -> set[Key]:
    return {(about["stage_id"], about["attempt"]) for about in ledger["attempts"]}

"""Compacting results that no run is writing to."""

from __future__ import annotations

from energyaware.compact import compact
from energyaware.errors import InputError
from energyaware.lease import Lease, this_process
from energyaware.rows import COLUMNS
from energyaware.store import Store


def compact_results(store: Store) -> str:
    """Merge small files, holding the results meanwhile. Returns what was done, in one line.

    Raises:
        InputError: a run holds the results, or there are none.
    """
    if not any(store.files.names(folder) for folder in ("lease", *COLUMNS)):
        raise InputError(store.url, "", "holds no results: nothing to compact")
    with Lease.take(store.files, this_process()) as lease:
        store.clear_incoming()
        return compact(store.files, lease.check).line()

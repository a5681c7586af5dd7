"""Compacting results that no run is writing to."""

from __future__ import annotations

from energyaware.compact import compact
from energyaware.lease import Lease, this_process
from energyaware.store import Store


def compact_results(store: Store) -> str:
    """Merge small files, holding the results meanwhile. Returns what was done, in one line.

    Raises:
        InputError: a run holds the results.
    """
    with Lease.take(store.files, this_process()) as lease:
        store.clear_incoming()
        return compact(store.files, lease.check).line()

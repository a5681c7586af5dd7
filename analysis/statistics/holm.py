"""Holm's correction for many tests (1979, Scandinavian Journal of Statistics 6, 65-70)."""

from collections.abc import Iterable
from typing import Any


def correct(rows: Iterable[dict[str, Any]], p: str = "p") -> None:
    """Add `…_holm` to all rows that have a p: what it is worth among as many tests as there are of them.

    The chance that any of the tests without an effect falls below a bound is then at most that bound.
    """
    tested = sorted((row for row in rows if row.get(p) is not None), key=lambda row: float(row[p]))
    so_far = 0.0
    for place, row in enumerate(tested):
        so_far = max(so_far, min(1.0, (len(tested) - place) * row[p]))
        row[f"{p}_holm"] = so_far

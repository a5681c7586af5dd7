"""What `ranking_pandas.py` and `ranking_duckdb.py` have in common: the product's ranking, written anew.

Both read the columns that they need, shrink the energy table before anything else, and give the same figures: gross
energy, min-max, w = 0.5, 10,000 requests, what the plan asks for, measured beside estimated allowed. They leave out
what the product finds out beside these: marks, carbon, cost, devices, tokens, why a stage cannot be ranked, and whether
every page of every file can be read.

A row of the energy table that several files hold counts once, the last; with `once=False` they trust that none is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

WEIGHT: Final = 0.5
REQUESTS: Final = 10_000

Rows = list[dict[str, Any]]


def files(folder: Path, table: str) -> list[str]:
    """Of a table, in the order in which they count."""
    return [str(file) for file in sorted((folder / table).rglob("*.parquet"), key=lambda file: file.name)]

"""Whether joules can be compared: like with like, or not without being asked to."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import polars as pl

from energyaware.errors import InputError

ON_GPUS: Final = "energy was metered on "


class NotComparable(InputError):
    """Some of the configurations are measured and others estimated, of different components, or on different GPUs."""


def differing(rows: pl.DataFrame) -> str | None:
    """In what the energies of ranked rows differ, such as "2 configurations are measured, 1 is estimated"; else None.

    What is not known of a row, its `made_of` or its `gpu_kind`, is not compared.
    """
    if rows["gpu_kind"].drop_nulls().n_unique() > 1:
        return ON_GPUS + _counted(rows["gpu_kind"].drop_nulls())
    if rows["energy_kind"].n_unique() > 1:
        return "energy is " + _counted(f"{kind}" for kind in rows["energy_kind"])
    if rows["made_of"].drop_nulls().n_unique() > 1:
        return "energy is that of " + _counted(rows["made_of"].drop_nulls())
    return None


def refuse_to_compare(difference: str) -> NotComparable:
    """The one line that says what differs and what to do."""
    hint = "--allow-mixed, or ranking.allow_mixed in the sweep file, ranks them all the same"
    if difference.startswith(ON_GPUS):
        hint = f"--gpu-kind ranks those of one kind; {hint}"
    return NotComparable("ranking", "", f"not like with like: {difference}; {hint}")


def _counted(kinds: Iterable[str]) -> str:
    (first, count), *others = Counter(kinds).most_common()
    parts = [f"{first} in {count} configuration{'s' if count > 1 else ''}"]
    return ", ".join([*parts, *(f"{kind} in {number}" for kind, number in others)])

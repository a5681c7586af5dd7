"""How much of each layer goes: the pruning's own pattern, or what its overrides say for single layers."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from energyaware.errors import AuditError, InputError
from energyaware.pruning.patterns import Pattern, Unstructured, make_pattern

if TYPE_CHECKING:
    from energyaware.spec import Pruning


def patterns_by_layer(names: Iterable[str], pruning: Pruning) -> dict[str, Pattern | None]:
    """The pattern of each layer, None for layers that are to be left alone. The first override that matches counts.

    Raises:
        AuditError: an override matches no layer.
        InputError: an override's amount cannot be read.
    """
    names = list(names)
    for glob, _ in pruning.overrides:
        if not any(fnmatchcase(name, glob) for name in names):
            raise AuditError(f"{pruning.label}: the override {glob!r} matches none of {len(names)} layers")
    own = make_pattern(pruning.pattern, pruning.sparsity)
    amounts = [(glob, pattern_of_amount(amount)) for glob, amount in pruning.overrides]
    return {name: next((pattern for glob, pattern in amounts if fnmatchcase(name, glob)), own) for name in names}


def pattern_of_amount(amount: str) -> Pattern | None:
    """The pattern that an override's amount stands for: "25%" (unstructured), "4:8", or "none" for no pruning.

    Raises:
        InputError: none of the three.
    """
    if amount == "none":
        return None
    if not amount.endswith("%"):
        return make_pattern(amount, 0.0)
    try:
        percent = float(amount.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 100:  # noqa: PLR2004
        raise InputError("pruning", "overrides", f"{amount!r} is not a percentage from 0% to below 100%")
    return Unstructured(percent / 100)

"""From a share to whole structures, and which of them go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from energyaware.errors import AuditError
from energyaware.families import family_of

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.families import Family
    from energyaware.pruning.base import Batch
    from energyaware.spec import Pruning

LISTED: Final = 12
"""As many possible shares are listed; of more, the smallest, the largest and the step between."""


class Structured:
    """What the pruners of whole structures have in common."""

    structured: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True
    reconstructs: ClassVar[bool] = False


def prunable_family(model: Any, pruning: Pruning) -> Family:
    """The model's family, after checking that this pruning can be carried out on it.

    Raises:
        AuditError: the family is not known or cannot have it, the pattern is not structured, single layers are to
            differ: a config has one number for all blocks.
    """
    family = family_of(model.config)
    if pruning.kind in family.cannot:
        raise AuditError(f"{pruning.label}: {family.name} models cannot have it: {family.cannot[pruning.kind]}")
    if pruning.pattern != "structured":
        raise AuditError(f"{pruning.label}: the pattern must be structured, not {pruning.pattern}")
    if pruning.overrides:
        globs = ", ".join(glob for glob, _ in pruning.overrides)
        raise AuditError(f"{pruning.label}: overrides ({globs}): the blocks of one model have equal shapes")
    return family


def require(calibration: Sequence[Batch], pruning: Pruning) -> None:
    """Refuse to guess.

    Raises:
        AuditError: there is nothing to calibrate on.
    """
    if not calibration:
        raise AuditError(f"{pruning.label}: no calibration examples")


def how_many(pruning: Pruning, count: int, unit: str, possible: Sequence[int]) -> int:
    """How many of `count` structures go: the share, rounded to whole ones.

    Args:
        pruning: asks for the share.
        count: of structures in a block, or of blocks in a stack.
        unit: what they are called.
        possible: the numbers of them that can go, ascending.

    Raises:
        AuditError: that many cannot go; the message says which shares are possible.
    """
    wanted = round(pruning.sparsity * count)
    if wanted in possible:
        return wanted
    shares = [f"{100 * number / count:.4g}%" for number in possible]
    if not shares:
        choice = "none of them can go"
    elif len(shares) <= LISTED:
        choice = f"possible: {', '.join(shares)}"
    else:
        choice = f"possible: {shares[0]}, {shares[1]} and so on to {shares[-1]}"
    raise AuditError(f"{pruning.label}: that is {wanted} of {count} {unit}; {choice}")


def highest(scores: Tensor, kept: int) -> Tensor:
    """Indices of the `kept` highest scores, ascending: what stays keeps its order. Of equal scores the first stay."""
    return scores.argsort(descending=True, stable=True)[:kept].sort().values

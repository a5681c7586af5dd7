"""How a run ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.load import Results


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        failed: stages without a result, those that failed in earlier runs included.
        interrupted: whether it was stopped before its end.
        stopped_by: what stopped it, if that was not the user.
        over_budget: whether stages are left that would exceed the budget.
        results: as they are, where nothing was run and they were read already.
    """

    failed: int
    interrupted: bool
    stopped_by: str | None = None
    over_budget: bool = False
    results: Results | None = None

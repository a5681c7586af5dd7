"""What a funnel saved: the stages that it skipped, and what they would probably have taken."""

from dataclasses import dataclass

import polars as pl

from analysis.estimate import estimates
from analysis.load import Results


@dataclass(frozen=True)
class Skipped:
    """Stages that were skipped.

    Attributes:
        stages: how many.
        energy_j: joules that they would have taken, as finished ones of their kind tell; None where these cannot.
    """

    stages: int
    energy_j: float | None


def skipped(results: Results, stages: pl.DataFrame) -> Skipped:
    """Those of a sweep.

    Args:
        results: of the sweep.
        stages: what became of its stages (`analysis.states.states`).
    """
    those = stages.filter(state="skipped").select("stage_id", "kind")
    if those.is_empty():
        return Skipped(0, 0.0)
    rows = those.join(results.plan.select("stage_id", "settings").collect(), on="stage_id").to_dicts()
    learnt = estimates(results)
    known = [estimate.effort.energy_j for row in rows if (estimate := learnt.of(row))]
    energies = [energy_j for energy_j in known if energy_j is not None]
    return Skipped(those.height, sum(energies) if len(energies) == those.height else None)

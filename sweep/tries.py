"""What has become of a stage in this run."""

from dataclasses import dataclass, field

from sweep.failures import Failure
from sweep.plan import PlannedStage


@dataclass
class Tries:
    """A stage to run, and what has become of it in this run.

    Attributes:
        stage: which.
        attempt: number of the attempt to make next, or being made.
        micro_batch_size: what it trains with; None: as its settings say.
        not_before_s: monotonic clock.
        failures: of the attempts made in this run.
    """

    stage: PlannedStage
    attempt: int
    micro_batch_size: int | None = None
    not_before_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)

"""The attempts that are at work, as far as the last heartbeat of their meters tells."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from analysis.load import Results
from analysis.printing import number


@dataclass(frozen=True)
class Running:
    """An attempt at work.

    Attributes:
        window: the last one that it opened; None where none is known yet.
        epoch: of that window, else None.
        step: optimizer steps that it had taken when a window was last opened; None where that is not known.
        energy_j: known joules so far, around its windows too; None where they are not known.
        checkpoint_step: optimizer steps in the stage's last committed checkpoint; None without one in this folder.
    """

    stage_id: str
    kind: str | None
    precision: str | None
    pruning: str | None
    attempt: int
    window: str | None
    epoch: int | None
    step: int | None
    energy_j: float | None
    checkpoint_step: int | None

    def line(self) -> str:
        """For people."""
        about = ", ".join(filter(None, [self.precision, self.pruning]))
        parts = [
            self.window or "starting",
            None if self.epoch is None else f"epoch {self.epoch}",
            None if self.step is None else f"from step {self.step}",
            f"{number(self.energy_j)} J so far",
            None if self.checkpoint_step is None else f"checkpoint at step {self.checkpoint_step}",
        ]
        name = f"{self.kind} {self.stage_id}" + (f" ({about})" if about else "")
        return f"running {name}, attempt {self.attempt}: {', '.join(filter(None, parts))}"


def running(results: Results) -> pl.LazyFrame:
    """One row per attempt at work, with the columns of `Running` but the last."""
    key = ["stage_id", "attempt"]
    windows = (
        results.energy.sort("started_at", nulls_last=False)
        .group_by(key, maintain_order=True)
        .agg(pl.last("window", "epoch"), step=pl.col("from_step").max())
    )
    named = results.plan.select("stage_id", "precision", "pruning")
    return (
        results.attempts.filter(pl.col("state") == "running")
        .join(windows, on=key, how="left")
        .join(named, on="stage_id", how="left")
        .with_columns(energy_j=pl.col("energy_j") + pl.col("energy_other_j"))
        .select("stage_id", "kind", "precision", "pruning", "attempt", "window", "epoch", "step", "energy_j")
        .sort(key)
    )


def checkpoint_step(folder: Path, stage_id: str) -> int | None:
    """Optimizer steps in the last checkpoint of a stage that has its COMMIT."""
    committed = (folder / "checkpoints" / stage_id).glob("*/COMMIT")
    return max((int(path.parent.name) for path in committed if path.parent.name.isdecimal()), default=None)

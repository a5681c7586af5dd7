"""What a stage will probably take, from the finished stages that are most like it.

Like it are, in this order: stages that differ in the seed alone; those that differ in precision and pruning, too; all
of the kind. Of the first two kinds, fine-tunings of another length are scaled by their epochs or steps. The median
counts. What no finished stage tells is unknown, never 0.
"""

import json
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from analysis.load import Results
from analysis.spent import carried, with_around
from energyaware.rows import Row

RECENT: Final = 101
"""As many stages of a group count, the last ones: what a stage costs to estimate does not grow with the sweep."""

_OF_CONFIGURATION: Final = {"precision", "pruning", "finetune_precision"}
"""Settings in which stages of one sweep differ."""

_NO_MATTER: Final = {
    *("seed", "finetuned", "protocol"),
    *("learning_rate", "warmup", "weight_decay", "lora_alpha", "lora_dropout"),
}
"""Settings that change what is learnt, and not what it takes."""

_LENGTH: Final = ("steps", "epochs")
"""Of a fine-tuning; the first that is given counts, and its joules go with it."""


@dataclass(frozen=True)
class Effort:
    """Joules, GPU-seconds (GPUs held x time) and seconds; each None where it is not known."""

    energy_j: float | None
    gpu_s: float | None
    duration_s: float | None

    def times(self, factor: float) -> "Effort":
        """All of it so many times."""
        parts = (self.energy_j, self.gpu_s, self.duration_s)
        return Effort(*(None if part is None else part * factor for part in parts))


@dataclass(frozen=True)
class Estimate:
    """What a stage will probably take.

    Attributes:
        effort: of the stage, from where it goes on.
        stages: ids of the finished stages that it rests on.
        alike: whether these have its settings, but for precision, pruning and seed.
    """

    effort: Effort
    stages: tuple[str, ...]
    alike: bool


@dataclass(frozen=True)
class _Sample:
    """A finished stage: what its windows took, what was spent around them, and how long its fine-tuning was."""

    stage_id: str
    effort: Effort
    around_j: float | None
    length: float | None

    def scaled(self, length: float | None) -> Effort:
        """As it would have been with another length. What is around windows, such as loading, stays as it is.

        Time is taken to go with joules; where these are not known, with the length.
        """
        if length is None or self.length is None or length == self.length:
            return self.effort
        factor, energy_j = length / self.length, self.effort.energy_j
        if energy_j and self.around_j is not None:
            factor = ((energy_j - self.around_j) * factor + self.around_j) / energy_j
        return self.effort.times(factor)


@dataclass
class Estimates:
    """Learns from finished stages, and tells what others will take.

    Attributes:
        in_checkpoints_j: joules that a checkpoint of an unfinished stage holds, by stage id: these are not spent again.
    """

    in_checkpoints_j: dict[str, float] = field(default_factory=dict)
    _samples: dict[tuple[str, ...], deque[_Sample]] = field(default_factory=dict)
    _known: dict[tuple[tuple[str, ...], float | None], tuple[Effort, tuple[str, ...]]] = field(default_factory=dict)
    _groups: dict[str, tuple[list[tuple[str, ...]], float | None]] = field(default_factory=dict)

    def learn(self, row: Row, effort: Effort, around_j: float | None) -> None:
        """Take note of a finished stage.

        Args:
            row: with the stage's columns of the plan table.
            effort: what it took in all.
            around_j: of its joules those around its windows.
        """
        groups, length = self._groups_of(row)
        for group in groups:
            sample = _Sample(row["stage_id"], effort, around_j, length)
            self._samples.setdefault(group, deque(maxlen=RECENT)).append(sample)
        self._known.clear()

    def knows(self, kind: str) -> bool:
        """Whether a stage of the kind has finished."""
        return (kind,) in self._samples

    def of(self, row: Row) -> Estimate | None:
        """What a stage will take, given its columns of the plan table; None where no stage of its kind has finished."""
        groups, length = self._groups_of(row)
        group = next((group for group in groups if group in self._samples), None)
        if group is None:
            return None
        alike = len(group) > 1
        asked = group, length if alike else None
        if asked not in self._known:
            self._known[asked] = _median(self._samples[group], asked[1])
        effort, stages = self._known[asked]
        return Estimate(effort.times(self._share_left(row["stage_id"], effort)), stages, alike)

    def _share_left(self, stage_id: str, effort: Effort) -> float:
        held_j = self.in_checkpoints_j.get(stage_id, 0.0)
        return max(0.0, 1 - held_j / effort.energy_j) if effort.energy_j else 1.0

    def _groups_of(self, row: Row) -> tuple[list[tuple[str, ...]], float | None]:
        """The groups that a stage belongs to, the most telling first, and its length."""
        stage_id = row["stage_id"]
        if stage_id not in self._groups:
            kind, settings = row["kind"], json.loads(row["settings"] or "{}")
            unit = next((name for name in _LENGTH if settings.get(name)), None)
            length = settings[unit] if unit else None
            shared = _text({k: v for k, v in settings.items() if k not in {*_OF_CONFIGURATION, *_NO_MATTER, *_LENGTH}})
            own = _text({k: v for k, v in settings.items() if k in _OF_CONFIGURATION})
            groups = [(kind, f"{unit} {shared}", own), (kind, f"{unit} {shared}")] if settings else []
            self._groups[stage_id] = [*groups, (kind,)], length
        return self._groups[stage_id]


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _median(samples: Iterable[_Sample], length: float | None) -> tuple[Effort, tuple[str, ...]]:
    efforts = [sample.scaled(length) for sample in samples]

    def of(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    effort = Effort(
        of(effort.energy_j for effort in efforts),
        of(effort.gpu_s for effort in efforts),
        of(effort.duration_s for effort in efforts),
    )
    return effort, tuple(sample.stage_id for sample in samples)


def estimates(results: Results) -> Estimates:
    """All that the finished stages of a results folder tell, those that the plan does not ask for, too."""
    key = ["stage_id", "attempt"]
    times = efforts(results)
    parts = pl.concat([results.stages.select(key), carried(results).select(key)])
    taken = parts.join(times, on=key).group_by("stage_id").agg(pl.sum("duration_s"), _known_sum("gpu_s"))
    stages = (
        results.stages.join(taken, on="stage_id", how="left", suffix="_taken")
        .with_columns(duration_s=pl.coalesce("duration_s_taken", "duration_s"), all_j=with_around())
        .sort("finished_at", nulls_last=False)
        .select("stage_id", "kind", "settings", "energy_j", "all_j", "gpu_s", "duration_s")
    )
    held = (
        results.attempts.join(results.stages, on="stage_id", how="anti")
        .with_columns(pl.col("energy_carried_j").fill_nan(None))
        .group_by("stage_id")
        .agg(pl.sum("energy_carried_j"))
    )
    finished, in_checkpoints = pl.collect_all([stages, held])
    learnt = Estimates(dict(in_checkpoints.iter_rows()))
    for row in finished.iter_rows(named=True):
        all_j = row["all_j"]
        around_j = None if all_j is None else all_j - row["energy_j"]
        learnt.learn(row, Effort(all_j, row["gpu_s"], row["duration_s"]), around_j)
    return learnt


def efforts(results: Results) -> pl.LazyFrame:
    """Every attempt: stage_id, attempt, workers, `duration_s`, `gpu_s`; the last is null where it was not metered."""
    key, own = ["stage_id", "attempt"], ["workers", "duration_s"]
    on_gpu = (pl.col("component") == "gpu") & pl.col("device").is_not_null()
    gpus = results.energy.group_by(key).agg(gpus=pl.struct("node", "device").filter(on_gpu).n_unique())
    unrecorded = results.stages.join(results.attempts, on=key, how="anti").select(*key, *own)
    attempts = pl.concat([results.attempts.select(*key, *own), unrecorded])
    return attempts.join(gpus, on=key, how="left").select(*key, *own, gpu_s=pl.col("gpus") * pl.col("duration_s"))


def _known_sum(name: str) -> pl.Expr:
    return pl.when(pl.col(name).null_count() == 0).then(pl.col(name).sum()).alias(name)

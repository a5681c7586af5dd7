"""Measurements of a configuration that were made more than once, under other seeds or again, as they can be drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl

from analysis.answered import Answered, Sums, added_up, answered_by, together
from analysis.candidates import Energy, candidates, dense_stages
from analysis.draws import Bootstrap, Floats
from analysis.load import Results
from analysis.metrics import Metric, value_of
from analysis.ranking import DENSE_PARENT, name_of
from analysis.serving import repeats

_PARTS: Final = [
    *["inference_energy_j", "inference_carbon_g", "inference_cost", "tokens_per_request", "seconds_per_request"],
    *["finetune_energy_j", "finetune_carbon_g", "finetune_cost", "rho", "correct_per_request"],
]
"""Columns of the candidates that are drawn."""

_OF_WINDOWS: Final = ("inference_", "seconds_")
"""What those begin with that differ between repeats."""

_WINDOWS_MAKE_UP_STAGE: Final = 1e-6
"""Relative difference up to which the joules of the windows are those of the stage."""

_LEAST: Final = 1e-3
"""Share of the measured mean that is drawn at least: joules, tokens and seconds are positive, however far the draws of
a handful of measurements reach."""

_AT_ONCE: Final = 64
"""Configurations whose answers are added up together."""


@dataclass(frozen=True)
class Phase:
    """The windows of one kind, prefill or decode, of one stage: a value per repeat."""

    requests: Floats
    energy_j: Floats
    duration_s: Floats


@dataclass(frozen=True)
class Measured:
    """What was measured of one configuration, or of the dense parent that it borrows from: a value per stage.

    Attributes:
        parts: columns of the candidates by name.
        phases: the windows of each stage, empty where they do not make up its joules.
    """

    stage_ids: list[str]
    seeds: list[int | None]
    parts: dict[str, Floats]
    phases: list[list[Phase]]

    @cached_property
    def repeats(self) -> list[int]:
        """Of each stage, how often all of its windows were measured."""
        return [min((len(phase.requests) for phase in phases), default=1) for phases in self.phases]

    @property
    def several_seeds(self) -> bool:
        """Whether it was run under more than one seed."""
        return len(self.stage_ids) > 1

    @property
    def varies(self) -> bool:
        """Whether anything was measured more than once, so that it can be told how far it varies."""
        return self.several_seeds or min(self.repeats) > 1

    def drawn(self, part: str, bootstrap: Bootstrap) -> Floats:
        """One of its parts in each draw: a mean over drawn seeds, or what drawn repeats of the only seed make of it."""
        values = self.parts[part]
        if self.several_seeds:
            drawn = values @ bootstrap.weights_of_seeds(tuple(self.seeds))
        else:
            drawn = values * self._of_repeats(part, bootstrap)
        return np.asarray(np.maximum(drawn, _LEAST * values.mean()))

    def _of_repeats(self, part: str, bootstrap: Bootstrap) -> Floats:
        """The part over drawn repeats of the only stage, as a multiple of what it is over all of them.

        A phase takes its amount over its requests, a ratio of sums, to which each repeat adds its linear part (Cochran
        1977, Sampling Techniques, chapter 6): a ratio of drawn sums has no bound where that of the requests nears 0.
        """
        quantity = "duration_s" if part == "seconds_per_request" else "energy_j"
        (phases,), (stage_id,) = self.phases, self.stage_ids
        if not phases or not part.startswith(_OF_WINDOWS):
            return np.ones(bootstrap.draws)
        random = bootstrap.generator("repeats", stage_id)
        drawn, measured = np.zeros(bootstrap.draws), 0.0
        for phase in phases:
            amounts = getattr(phase, quantity)
            per_request = amounts.sum() / phase.requests.sum()
            added = (amounts - per_request * phase.requests) / phase.requests.mean()
            drawn += per_request + added @ bootstrap.weights(len(added), random)
            measured += per_request
        return np.asarray(drawn / measured)


def phases_of(windows: list[dict[str, Any]], energy_j_per_request: float) -> list[Phase]:
    """The windows of a stage, if they are all known and make up its joules per request; else none."""
    phases = [
        Phase(*(np.array(kind[name], np.float64) for name in ("requests", "energy_j", "duration_s")))
        for kind in windows
    ]
    if not all(np.isfinite(phase.energy_j).all() and (phase.requests > 0).all() for phase in phases):
        return []
    made_up = sum(phase.energy_j.sum() / phase.requests.sum() for phase in phases)
    return phases if abs(made_up - energy_j_per_request) <= _WINDOWS_MAKE_UP_STAGE * energy_j_per_request else []


@dataclass(frozen=True)
class Configuration:
    """A row of the ranking as it can be drawn.

    Attributes:
        name: of the row.
        own: its own stages, of its fine-tunings and its quality.
        source: those whose inference energy it is ranked with, its own or its dense parent's.
        examples: size of the test set, None if it is unknown.
        accuracies: how many of its tasks have an accuracy.
        answered: what each test example adds to its quality, where that is recorded.
    """

    name: str
    own: Measured
    source: Measured
    examples: int | None
    accuracies: int
    answered: Answered | None

    def quality(self, bootstrap: Bootstrap, sums: Sums | None = None) -> Floats | None:
        """Rho in each draw: of the drawn seeds, on another test set of the same size; None if neither is known.

        `sums` are those of its answers by task, where they are at hand.
        """
        if self.answered is not None:
            sums = sums or {task: bootstrap.over_examples(of.quality) for task, of in self.answered.items()}
            return np.asarray(np.mean(self._of_tasks(sums, bootstrap), axis=0))
        if self.examples is None and not self.own.several_seeds:
            return None
        return self._graded("rho", 1, bootstrap)

    def ranked_by(self, metric: Metric, requests: int, bootstrap: Bootstrap) -> Floats | None:
        """The metric in each draw; None if it is not known how far it varies."""
        if not self.source.varies:
            return None

        def part(name: str) -> Floats:
            if name == "correct_per_request":
                return self._correct(bootstrap)
            owner = self.own if name.startswith("finetune_") else self.source
            return owner.drawn(name, bootstrap)

        return np.asarray(value_of(metric, part, requests))

    def _correct(self, bootstrap: Bootstrap) -> Floats:
        """Correct answers per request, high in the draws where rho is: both are of the same test set."""
        if self.answered is not None:
            accuracies = {task: of.accuracy for task, of in self.answered.items() if of.accuracy is not None}
            sums = {task: bootstrap.over_examples(accuracy) for task, accuracy in accuracies.items()}
            return np.asarray(np.sum(self._of_tasks(sums, bootstrap), axis=0))
        correct = self._graded("correct_per_request", self.accuracies, bootstrap)
        order = self._graded("rho", 1, bootstrap).argsort(kind="stable")
        together = np.empty_like(correct)
        together[order] = np.sort(correct)
        return together

    def _graded(self, part: str, highest: int, bootstrap: Bootstrap) -> Floats:
        """A quality from 0 to `highest` in each draw, where it is not known what single examples add to it."""
        mean = np.clip(self.own.drawn(part, bootstrap) / highest, 0, 1)
        if self.examples is None:
            return mean * highest
        return highest * bootstrap.of_test_set(mean, self.examples, part, self.name)

    def _of_tasks(self, sums: Sums, bootstrap: Bootstrap) -> list[Floats]:
        """The quality of each task in each draw."""
        weights = bootstrap.weights_of_seeds(tuple(self.own.seeds))
        return [bootstrap.of_examples(*of, weights, "answers", self.name, task) for task, of in sums.items()]


def qualities(compared: Sequence[Configuration], bootstrap: Bootstrap) -> list[Floats | None]:
    """Rho of each configuration in each draw. Answers of many are added up together, which takes less time."""
    return [
        one.quality(bootstrap, sums)
        for first in range(0, len(compared), _AT_ONCE)
        for one, sums in zip(
            compared[first : first + _AT_ONCE],
            added_up([one.answered for one in compared[first : first + _AT_ONCE]], bootstrap),
            strict=True,
        )
    ]


def configurations(
    results: Results, rows: pl.DataFrame, energy: Energy, options: dict[str, Any]
) -> list[Configuration]:
    """The rows of the ranking with the stages that they are made of."""
    ranked = candidates(results, energy, **options).filter(pl.col("reason").is_null())
    dense = dense_stages(results, energy, metric=options["metric"])
    stages, parents, windows = pl.collect_all(
        [
            _together(ranked.with_columns(configuration=name_of("configuration")), "configuration"),
            _together(dense, "family"),
            _windows(results, energy),
        ]
    )
    windows_of = dict(windows.iter_rows())

    def measured(group: dict[str, Any]) -> Measured:
        stage_energies = zip(group["stage_id"], group["inference_energy_j"], strict=True)
        return Measured(
            stage_ids=group["stage_id"],
            seeds=group["seed"],
            parts={part: np.array(group[part], np.float64) for part in _PARTS if part in group},
            phases=[phases_of(windows_of.get(stage_id, []), energy_j) for stage_id, energy_j in stage_energies],
        )

    groups = {group["configuration"]: group for group in stages.iter_rows(named=True)}
    answered = answered_by(results, [stage_id for group in groups.values() for stage_id in group["stage_id"]])
    borrowed = set(rows.filter(pl.col("energy_from") == DENSE_PARENT)["configuration"])
    lenders = {groups[name]["family"][0] for name in borrowed}
    parent_of = {
        group["family"]: measured(group) for group in parents.iter_rows(named=True) if group["family"] in lenders
    }
    return [
        Configuration(
            name=name,
            own=(own := measured(group := groups[name])),
            source=parent_of[group["family"][0]] if name in borrowed else own,
            examples=None if None in group["examples"] else min(group["examples"]),
            accuracies=max(group["accuracies"]),
            answered=together([answered.get(stage_id) for stage_id in own.stage_ids], own.parts["rho"]),
        )
        for name in rows["configuration"]
    ]


def _together(stages: pl.LazyFrame, key: str) -> pl.LazyFrame:
    """One row per key, with lists over its stages in the order of their seeds."""
    columns = [*_PARTS, "stage_id", "seed", "family", "examples", "accuracies"]
    there = [name for name in stages.collect_schema().names() if name in columns and name != key]
    return stages.sort("seed", "stage_id").group_by(key, maintain_order=True).agg(there)


def _windows(results: Results, energy: Energy) -> pl.LazyFrame:
    """Per stage a list of its phases, each with lists over its repeats."""
    joules = "energy_net_j" if energy == "net" else "energy_j"
    return (
        repeats(results.stages, results.windows)
        .sort("stage_id", "window", "repeat")
        .group_by("stage_id", "window", maintain_order=True)
        .agg("requests", "duration_s", energy_j=joules)
        .group_by("stage_id")
        .agg(pl.struct("requests", "energy_j", "duration_s"))
    )

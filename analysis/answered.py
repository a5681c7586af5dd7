"""What single test examples add to the quality of stages, where that is recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
import polars as pl

from analysis.draws import Bootstrap, Floats
from analysis.load import Results
from analysis.quality import of_finishing

_SAME_QUALITY: Final = 1e-6
"""Difference up to which the mean over examples is the quality that is ranked."""


@dataclass(frozen=True)
class Answers:
    """To one task.

    Attributes:
        quality: the mean of the task's metrics, (examples,), or of several stages (stages, examples).
        accuracy: likewise whether answers are right; None if the task has no accuracy.
    """

    quality: Floats
    accuracy: Floats | None


Answered = Mapping[str, Answers]
"""By task."""

Sums = Mapping[str, tuple[Floats, Floats]]
"""By task what `Bootstrap.over_examples` gives."""


def answered_by(results: Results, stage_ids: Sequence[str]) -> dict[str, Answered]:
    """Answers of stages by their id; those of which a metric of any task does not tell of examples are left out."""
    rows = (
        of_finishing(results.stages, results.quality)
        .filter(pl.col("stage_id").is_in(stage_ids))
        .select("stage_id", "task", "metric", "per_example", n=pl.col("per_example").list.len().fill_null(0))
        .sort("stage_id", "task", "metric")
        .collect()
    )
    values = rows.filter(pl.col("n") > 0)["per_example"].explode().to_numpy().astype(np.float64)
    ends = rows["n"].cum_sum().to_list()
    found: dict[str, dict[str, Answers]] = {}
    untold = set()
    listed = zip(rows.select("stage_id", "task", "metric", "n").iter_rows(), ends, strict=True)
    for (stage_id, task), metrics in groupby(listed, key=lambda row: row[0][:2]):
        of = {metric: values[end - n : end] for (_, _, metric, n), end in metrics}
        if len({len(each) for each in of.values()}) == 1 and all(len(each) for each in of.values()):
            found.setdefault(stage_id, {})[task] = Answers(np.mean(list(of.values()), axis=0), of.get("accuracy"))
        else:
            untold.add(stage_id)
    return {stage_id: answers for stage_id, answers in found.items() if stage_id not in untold}


def together(answered: Sequence[Answered | None], rho: Floats) -> Answered | None:
    """Answers of the stages of one configuration to the same examples; None unless they make up the quality of each."""
    known = [one for one in answered if one]
    if len(known) < len(answered):
        return None
    first = known[0]
    for one, quality in zip(known, rho, strict=True):
        if _shapes(one) != _shapes(first):
            return None
        mean = np.mean([answers.quality.mean() for answers in one.values()])
        if not abs(mean - quality) <= _SAME_QUALITY:  # nor is what is no number
            return None
    return {
        task: Answers(
            np.array([one[task].quality for one in known]),
            None if answers.accuracy is None else np.array([one[task].accuracy for one in known]),
        )
        for task, answers in first.items()
    }


def _shapes(answered: Answered) -> dict[str, tuple[int, bool]]:
    return {task: (len(answers.quality), answers.accuracy is None) for task, answers in answered.items()}


def added_up(answered: Sequence[Answered | None], bootstrap: Bootstrap) -> list[Sums | None]:
    """The sums of the quality of several configurations."""
    sums: list[dict[str, tuple[Floats, Floats]]] = [{} for _ in answered]
    kinds = sorted({(task, of.quality.shape[1]) for one in answered if one for task, of in one.items()})
    for task, count in kinds:
        has = [number for number, one in enumerate(answered) if one and task in one and _examples(one, task) == count]
        values = [of[task].quality for number in has if (of := answered[number])]
        drawn, total = bootstrap.over_examples(np.concatenate(values))
        ends = np.cumsum([len(one) for one in values])[:-1]
        for number, part in zip(has, np.split(drawn, ends), strict=True):
            sums[number][task] = part, total
    return [found or None for found in sums]


def _examples(answered: Answered, task: str) -> int:
    return int(answered[task].quality.shape[1])

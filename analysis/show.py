"""A ranking with all that has to be said beside it, as programs read it: JSON, CSV."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analysis.candidates import Energy
from analysis.labels import labels
from analysis.load import Results
from analysis.metrics import METRICS, EnergyMetric, Metric
from analysis.notes import notes_on, notes_on_order, notes_on_tasks
from analysis.printing import to_csv, to_json
from analysis.ranking import Phi, left_out, ranking
from analysis.sentence import baseline_of, sentence
from analysis.settings import data_of
from analysis.versions import differences, in_words

if TYPE_CHECKING:
    from analysis.weights import Weights

__all__ = ["Answer", "answer", "as_csv", "as_json"]

_PLACES: Final = 10
"""Changes of order are given for so many first places."""

_PAIRED: Final = 30
"""Break-even is given between so many of the first rows, beside the baseline and the first without a fine-tuning."""


@dataclass(frozen=True)
class Answer:
    """A ranking with what has to be said beside it.

    Attributes:
        rows: as `analysis.ranking.ranking` returns them.
        uncertainty: as `analysis.uncertainty.uncertainty` returns it, at `level`.
        front: as `analysis.tradeoffs.pareto` returns it.
        without: `analysis.tradeoffs.leave_one_out` by phi.
        left_out: as `analysis.ranking.left_out` returns them.
        labels: what configurations are called, by configuration; no two alike.
        sentence: the answer.
        baseline: the configuration that it holds the best one against; None where there is nothing to rank.
        notes: what the reader has to know before believing the rows, one line each.
    """

    weight: float
    requests: int
    phi: Phi
    energy: Energy
    metric: Metric
    level: float
    rows: pl.DataFrame
    uncertainty: pl.DataFrame
    front: pl.DataFrame
    without: Mapping[Phi, pl.DataFrame]
    left_out: pl.DataFrame
    labels: Mapping[str, str]
    sentence: str
    baseline: str | None
    notes: list[str]

    @cached_property
    def weights(self) -> "Weights":
        """Who is best at which weight; changes of order among the first places."""
        from analysis.weights import over_weights

        return over_weights(self.rows, _PLACES)

    @cached_property
    def break_even(self) -> pl.DataFrame:
        """As `analysis.tradeoffs.break_even`: of the first rows, the baseline, and the first without a fine-tuning."""
        from analysis.tradeoffs import break_even

        untuned = pl.col("finetune_energy_j") == 0
        baseline = pl.col("configuration").eq_missing(pl.lit(self.baseline, pl.String))
        paired = (pl.int_range(pl.len()) < _PAIRED) | baseline | (untuned & (untuned.cum_sum() == 1))
        return break_even(self.rows.filter(paired))

    def everything(self) -> pl.DataFrame:
        """The rows with their label, intervals, probability of being the best, and place on the front."""
        named = pl.col("configuration").replace_strict(self.labels, default=None, return_dtype=pl.String)
        return _joined(self.rows, self.uncertainty, self.front).with_columns(label=named)


def answer(
    results: Results,
    weight: float = 0.5,
    requests: int = 10_000,
    phi: Phi = "minmax",
    *,
    energy: Energy = "gross",
    metric: Metric = "request",
    level: float = 0.95,
    allow_mixed: bool = False,
    asked_only: bool = True,
    gpu_kind: str | None = None,
) -> Answer:
    """Rank, tell how sure that is, and collect who is left out and what to be careful about.

    Arguments and refusals are those of `analysis.ranking.ranking`; `level` is that of the intervals.
    """
    from analysis.tradeoffs import leave_one_out, pareto
    from analysis.uncertainty import uncertainty

    of: dict[str, Any] = {"energy": energy, "metric": metric, "asked_only": asked_only, "gpu_kind": gpu_kind}
    ranked = ranking(results, weight, requests, phi, allow_mixed=allow_mixed, **of)
    rows, others, unplanned = pl.collect_all([ranked, left_out(results, **of), _unplanned(results)])
    sure = uncertainty(results, weight, requests, phi, allow_mixed=allow_mixed, level=level, rows=rows, **of)
    front = pareto(rows)
    all_of_them = _joined(rows, sure, front)
    names, baseline = labels(rows), baseline_of(rows)
    methods: tuple[Phi, ...] = ("minmax", "ratio")
    without = {method: leave_one_out(rows, weight, method) for method in methods}
    notes = [
        *notes_on(rows, others, phi, energy, METRICS[metric]),
        *notes_on_tasks(rows, _data(results, rows)),
        *notes_on_order(all_of_them, without, phi, names),
        *results.problems,
    ]
    if versions := in_words(differences(results, asked_only=asked_only)):
        notes.append(f"versions differ: {versions}")
    if results.has_plan and unplanned.height:
        what = "not compared; --all ranks them too" if asked_only else "compared all the same"
        notes.append(f"finished stages that are not in the plan: {unplanned.height}, {what}")
    return Answer(
        weight=weight,
        requests=requests,
        phi=phi,
        energy=energy,
        metric=metric,
        level=level,
        rows=rows,
        uncertainty=sure,
        front=front,
        without=without,
        left_out=others,
        labels=names,
        sentence=sentence(all_of_them, weight, _in_currency(metric, rows), names),
        baseline=None if baseline is None else baseline["configuration"],
        notes=notes,
    )


def as_json(answer: Answer) -> str:
    """All of it; configurations are named by `configuration`. What is unknown or not a number is null."""
    content = {
        "sentence": answer.sentence,
        "weight": answer.weight,
        "requests": answer.requests,
        "phi": answer.phi,
        "energy": answer.energy,
        "metric": answer.metric,
        "level": answer.level,
        "baseline": answer.baseline,
        "notes": answer.notes,
        "rows": [
            row | {"applied": row["pruning_applied"], "quality": _by_metric(row["quality"])}
            for row in answer.everything().to_dicts()
        ],
        "left_out": answer.left_out.to_dicts(),
        "front": answer.front.filter("on_front")["configuration"].to_list(),
        "weights": {"winners": answer.weights.winners.to_dicts(), "crossings": answer.weights.crossings.to_dicts()},
        "break_even": answer.break_even.to_dicts(),
        "leave_one_out": {phi: without.to_dicts() for phi, without in answer.without.items()},
    }
    return to_json(content)


def as_csv(answer: Answer) -> str:
    """The ranked rows alone: a column per metric, lists joined by spaces, empty where unknown."""
    all_of_them = answer.everything()
    plain, qualities = all_of_them.drop("quality"), [_by_metric(quality) for quality in all_of_them["quality"]]
    metrics = dict.fromkeys(name for of in qualities for name in of)
    columns = {name: pl.Series([of.get(name) for of in qualities], dtype=pl.Float64) for name in metrics}
    return to_csv(plain.with_columns(**columns))


def _joined(rows: pl.DataFrame, *others: pl.DataFrame) -> pl.DataFrame:
    """The rows as they stand, with the columns of others."""
    for other in others:
        rows = rows.join(other, on="configuration", how="left", maintain_order="left")
    return rows


def _data(results: Results, rows: pl.DataFrame) -> list[str]:
    """Names of the data that the ranked configurations were tuned and tested on."""
    ranked = pl.col("stage_id").is_in(rows["stage_ids"].explode().unique().implode())
    texts = results.stages.filter(ranked).select(pl.col("settings").drop_nulls().unique()).collect(engine="in-memory")
    return sorted({name for text in texts["settings"] if (name := data_of(text))})


def _by_metric(quality: list[dict[str, Any]]) -> dict[str, float]:
    return {f"{part['task']}.{part['metric']}": part["value"] for part in quality}


def _unplanned(results: Results) -> pl.LazyFrame:
    return results.stages.filter(pl.col("kind") == "inference").join(results.plan, on="stage_id", how="anti")


def _in_currency(metric: Metric, rows: pl.DataFrame) -> EnergyMetric:
    """The metric with the unit of its values: costs are ranked in one currency only."""
    known, currencies = METRICS[metric], rows["currency"].drop_nulls().to_list()
    return known._replace(unit=known.unit or next(iter(currencies), ""))

"""What all figures of one set are drawn from: results, how they are ranked, and names for what is in them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import polars as pl

from analysis.candidates import candidates
from analysis.comparable import NotComparable
from analysis.figures.figure import NothingToDraw
from analysis.kinds import ESTIMATED, MEASURED, MIXED, UNKNOWN
from analysis.labels import labels
from analysis.load import Results
from analysis.metrics import METRICS
from analysis.results import AnswerChoices
from analysis.show import Answer
from analysis.show import answer as answer_of

_OF_STAGES: Final = [
    *["stage_id", "kind", "attempt", "carried_attempts", "duration_s", "prompt_lengths"],
    *["model", "model_revision", "tasks", "finetune_method", "finetune_precision"],
    *["precision", "pruning", "pruning_applied", "gpu_kind", "energy_kind"],
]

_MADE_UP: Final = {"data": "fault tickets", "model": "base model"}
"""What is this project's own where a stage's settings say that it is built in."""


@dataclass(frozen=True)
class Subject:
    """Results and how they are ranked.

    Attributes:
        choices: how they are ranked, as of `analysis.show.answer`.
        given: the answer, where it is there already.
        stage: of which stage power is drawn: the beginning of its id, or None for the longest fine-tuning.
    """

    results: Results
    choices: AnswerChoices
    given: Answer | None
    stage: str | None

    @cached_property
    def answer(self) -> Answer:
        """The ranking and what is said beside it.

        Raises:
            NothingToDraw: nothing is ranked, or what is there cannot be compared.
        """
        try:
            found = self.given or answer_of(self.results, **self.choices)
        except NotComparable as problem:
            raise NothingToDraw(problem.problem) from None
        if found.rows.is_empty():
            raise NothingToDraw("nothing is ranked yet")
        return found

    @cached_property
    def rows(self) -> pl.DataFrame:
        """Ranked configurations, best first, with their intervals, `label`, `on_front` and `dominated_by`."""
        rows = self.answer.everything()
        return rows.with_columns(label=told_apart(rows["label"]))

    @cached_property
    def inferences(self) -> pl.DataFrame:
        """Finished inference stages with a quality and an energy that can be believed, as `candidates` has them.

        Raises:
            NothingToDraw: there are none.
        """
        of: dict[str, Any] = {
            name: value for name, value in self.choices.items() if name in {"energy", "asked_only", "gpu_kind"}
        }
        found = candidates(self.results, **of)
        frame = found.filter(pl.col("reason").is_null()).sort("stage_id").collect()
        if frame.is_empty():
            raise NothingToDraw("no inference is finished and has both a quality and an energy")
        return frame

    @property
    def ranked_by(self) -> str:
        """What is ranked by, with its unit, as the title of an axis."""
        metric = METRICS[self.answer.metric]
        net = "net " if self.answer.energy == "net" else ""
        currencies = [] if metric.unit else self.rows["currency"].drop_nulls().unique().to_list()
        unit = printable(currencies[0]) if currencies else metric.unit
        return f"{net}{metric.words}" + (f", {unit}" if unit else "")

    @cached_property
    def stages(self) -> pl.DataFrame:
        """All finished stages, read once: what figures need of them, whether they are `asked` for, what is made up."""
        rows = self.results.stages
        asked = rows.join(self.results.plan, on="stage_id", how="semi") if self.results.has_plan else rows
        settings = pl.col("settings").str
        return (
            rows.select(
                *_OF_STAGES,
                *(
                    settings.json_path_match(f"$.{part}.kind").eq("builtin").alias(f"built_in_{part}")
                    for part in _MADE_UP
                ),
            )
            .join(asked.select("stage_id", asked=pl.lit(value=True)), on="stage_id", how="left")
            .with_columns(pl.col("asked").fill_null(value=False))
            .sort("stage_id")
            .collect()
        )

    @property
    def synthetic(self) -> str:
        """The sentence that says what of the results is made up; empty if nothing is."""
        what = [words for part, words in _MADE_UP.items() if self.stages[f"built_in_{part}"].any()]
        return f"Synthetic: the {' and the '.join(what)} are built-in ones, made up for trying out." if what else ""


def named_stages(stages: pl.DataFrame) -> pl.DataFrame:
    """Stages of one kind with `label`, no two alike."""
    rows = stages.with_columns(configuration="stage_id", stage_ids=pl.concat_list("stage_id"))
    found = labels(rows)
    return stages.with_columns(label=told_apart(found[name] for name in rows["configuration"]))


def told_apart(names: Iterable[str]) -> pl.Series:
    """The names as they can be drawn; of those that look alike then, all but the first are numbered."""
    seen: dict[str, int] = {}
    drawn = []
    for name in map(printable, names):
        seen[name] = seen.get(name, 0) + 1
        drawn.append(name if seen[name] == 1 else f"{name} (no. {seen[name]})")
    return pl.Series(drawn, dtype=pl.String)


def in_words(kind: pl.Expr) -> pl.Expr:
    """The kind of a stage."""
    return kind.replace("finetune", "fine-tuning").fill_null("stage of unknown kind")


def said(kinds: Iterable[str | None], by: str = "shape") -> str:
    """The sentence that says which energy is measured and which is not, and how the two are told apart."""
    present = {kind or UNKNOWN for kind in kinds}
    if present == {MEASURED}:
        return "All energy is measured by hardware."
    if present == {ESTIMATED}:
        return "All energy is estimated by a model, not measured."
    if present == {MIXED}:
        return "All energy is in part measured by hardware and in part estimated by a model."
    if present <= {UNKNOWN}:
        return "Whether energy is measured or estimated is not known."
    told = f", told apart by {by}" if by else ""
    return f"Some energy is measured by hardware, some estimated by a model{told}."


def caption(*sentences: str) -> str:
    """Those sentences that are not empty, one after another."""
    return printable(" ".join(filter(None, sentences)))


def printable(text: object) -> str:
    """Text that can be drawn: controls, such as those that turn the direction of writing around, are replaced."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))

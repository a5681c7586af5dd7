"""Figures of what goes in and how it is learnt: lengths of prompts, and loss against joules."""

import json
from collections import defaultdict
from typing import Any, Final

import altair as alt
import polars as pl

from analysis.figures.figure import Drawing, NothingToDraw
from analysis.figures.parts import (
    fitting,
    in_order,
    inline,
    panel,
    picked,
    tips,
    unless_picked_away,
    with_prefix,
)
from analysis.figures.subject import Subject, caption, named_stages, said, told_apart
from analysis.figures.theme import COLOURS
from analysis.kinds import MEASURED, UNKNOWN
from analysis.labels import with_short_models

_BIN_TOKENS: Final = 16
"""Lengths are counted in steps of it, rounded up."""

_FADED_LINES: Final = 100
"""Fine-tunings without a colour of their own that are drawn."""


def token_lengths(subject: Subject) -> Drawing:
    """How many test prompts have how many tokens, per model and tasks."""
    served = subject.stages.filter("asked", pl.col("kind") == "inference")
    found = served.select("model", "tasks", "prompt_lengths").unique(maintain_order=True).drop_nulls("prompt_lengths")
    found = with_short_models(found)
    alike: defaultdict[tuple[tuple[int, int], ...], list[str]] = defaultdict(list)
    for model, tasks, lengths in found.iter_rows():
        alike[tuple(sorted(_counted(lengths).items()))].append(f"{model}: {', '.join(tasks or [])}")
    alike.pop((), None)
    if not alike:
        raise NothingToDraw("no finished inference has recorded the lengths of its prompts")
    names = (first + (f" and {len(others)} more" if others else "") for first, *others in alike.values())
    rows = [
        {"series": series, "tokens_from": upto - _BIN_TOKENS, "tokens_to": upto, "prompts": count}
        for series, lengths in zip(told_apart(names), alike, strict=True)
        for upto, count in lengths
    ]
    frame = pl.DataFrame(rows)
    drawn = frame["series"].unique(maintain_order=True).head(COLOURS).to_list()
    shown = frame.filter(pl.col("series").is_in(drawn))
    bars = (
        alt.Chart(inline(shown))
        .mark_bar(opacity=0.75 if len(drawn) == 1 else 0.55, binSpacing=1)
        .encode(
            x=alt.X("tokens_from:Q", title="tokens of a prompt", bin="binned").axis(tickMinStep=_BIN_TOKENS),
            x2="tokens_to:Q",
            y=alt.Y("prompts:Q", title="test prompts", stack=None).axis(tickMinStep=1),
            color=in_order("series", drawn, "prompts of", columns=1),
            tooltip=tips(
                {"series": "prompts of"}, {"tokens_from": "more than", "tokens_to": "up to", "prompts": "prompts"}
            ),
        )
    )
    return Drawing(
        panel(bars, height=240),
        caption(
            f"Prompts of the test set by length, padding left out, in steps of {_BIN_TOKENS} tokens.",
            f"Sets that are left out: {len(alike) - COLOURS}." if len(alike) > COLOURS else "",
            subject.synthetic,
        ),
        frame,
    )


def _counted(lengths: str) -> dict[int, int]:
    """Prompts by length, from JSON such as {"16": 12, "32": 40}; nothing where it is none such."""
    try:
        return {int(upto): int(count) for upto, count in json.loads(lengths).items() if int(count) > 0}
    except (ValueError, TypeError, AttributeError):
        return {}


def energy_loss(subject: Subject) -> Drawing:
    """Validation loss over the joules spent till then, epoch by epoch."""
    rows = _epochs(subject)
    stages = named_stages(subject.stages.join(rows, on="stage_id", how="semi"))
    rows = rows.join(stages.select("stage_id", "label", "energy_kind"), on="stage_id").with_columns(
        energy_kind=pl.when("measured").then(pl.lit(MEASURED)).otherwise(pl.col("energy_kind").fill_null(UNKNOWN))
    )
    rows = rows.select("label", "epoch", "total_j", "validation_loss", "loss", "energy_kind").sort("label", "epoch")
    ends = rows.group_by("label").agg(pl.last("validation_loss", "total_j")).sort("validation_loss", "total_j", "label")
    coloured, others = ends["label"].head(COLOURS).to_list(), ends["label"].slice(COLOURS, _FADED_LINES).to_list()
    selection = picked("label")
    title, axis = with_prefix("energy of training so far", "J", float(rows["total_j"].max()))  # type: ignore[arg-type]
    x = alt.X("total_j:Q", title=title, axis=axis, scale=alt.Scale(zero=True))
    domain = fitting(rows.filter(pl.col("label").is_in([*coloured, *others]))["validation_loss"], lowest=0.0)
    y = alt.Y("validation_loss:Q", title="validation loss, nats per token").scale(zero=False, domain=domain)
    base: dict[str, Any] = {
        "x": x,
        "y": y,
        "detail": "label:N",
        "tooltip": tips(
            {"label": "fine-tuning", "energy_kind": "energy"},
            {"epoch": "epoch", "total_j": "J so far", "validation_loss": "validation loss", "loss": "training loss"},
        ),
    }
    faded = alt.Chart(inline(rows.filter(pl.col("label").is_in(others)))).encode(**base)
    best = alt.Chart(inline(rows.filter(pl.col("label").is_in(coloured)))).encode(
        **base, color=in_order("label", coloured, None), opacity=unless_picked_away(selection)
    )
    lone = rows.group_by("label").len()["len"].max() == 1
    return Drawing(
        panel(
            faded.mark_line(style="faded", strokeWidth=1),
            faded.mark_point(style="faded", filled=True, size=20),
            best.mark_line(strokeWidth=2).properties(name="losses").add_params(selection),
            best.mark_point(filled=True, size=55),
            height=300,
        ),
        caption(
            "Each point is the end of an epoch: down is better, left is cheaper.",
            "There is one epoch of each, and so no line." if lone else "",
            f"In colour the {len(coloured)} of {ends.height} fine-tunings with the lowest loss." if others else "",
            f"{ends.height - COLOURS - _FADED_LINES} are not drawn." if ends.height > COLOURS + _FADED_LINES else "",
            said(rows["energy_kind"], by=""),
            subject.synthetic,
        ),
        rows,
    )


def _epochs(subject: Subject) -> pl.DataFrame:
    """Epochs of finished fine-tunings with the joules spent until their end; up to the first that are unknown.

    Raises:
        NothingToDraw: there are none with a loss and joules.
    """
    finished = subject.stages.filter("asked").select("stage_id", finishing="attempt")
    rows = (
        subject.results.epochs.join(finished.lazy(), on="stage_id")
        .filter(pl.col("kept").fill_null(pl.col("attempt") == pl.col("finishing")))
        .sort("stage_id", "epoch", "attempt")
        .unique(["stage_id", "epoch"], keep="last", maintain_order=True)
        .with_columns(known_j=pl.when(pl.col("energy_j").is_finite()).then("energy_j"))
        .with_columns(
            total_j=pl.col("known_j").cum_sum().over("stage_id", order_by="epoch"),
            unknown=pl.col("known_j").is_null().cum_sum().over("stage_id", order_by="epoch"),
        )
        .filter(pl.col("unknown") == 0, pl.col("validation_loss").is_finite())
        .collect()
    )
    if rows.is_empty():
        raise NothingToDraw("no finished fine-tuning has an epoch with both a validation loss and known joules")
    return rows

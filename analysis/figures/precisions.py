"""Figures of unpruned inference by precision: energy, carbon, quality."""

from typing import Any, Final

import altair as alt
import polars as pl

from analysis.figures.figure import Drawing, NothingToDraw
from analysis.figures.parts import HALF, in_order, inline, kind_shape, panel, tips, with_prefix
from analysis.figures.subject import Subject, caption, printable, said
from analysis.figures.theme import COLOURS
from analysis.labels import with_short_models

_HEIGHT: Final = 240

_PANEL_PX: Final = 240

_PANEL_HEIGHT: Final = 130

_PANELS: Final = 8
"""Metrics that are drawn."""

_POINTS: Final = 300
"""More stages than this are drawn as the range that they fill."""

_TOLD_APART_BY: Final = ["finetune_precision", "model", "gpu_kind", "finetune_method"]
"""Columns in which those of one precision may differ."""


def precision(subject: Subject) -> Drawing:
    """Joules and carbon of inference per request by precision, of what is not pruned."""
    rows = _unpruned(subject).select(
        *["precision", "series", "stage_id", "seed", "size"],
        energy_kind="inference_kind",
        energy_j_per_request="inference_energy_j",
        carbon_g_per_request="inference_carbon_g",
    )
    panels = [_by_precision(rows, "energy_j_per_request", "energy per request", "J")]
    unknown = rows["carbon_g_per_request"].null_count()
    if unknown < rows.height:
        panels.append(_by_precision(rows, "carbon_g_per_request", "carbon per request", "g CO2e"))
    return Drawing(
        alt.hconcat(*panels),
        caption(
            _what_is_drawn(rows),
            "Fine-tuning is not in.",
            "The precision with the largest weights is first." if rows["size"].null_count() == 0 else "",
            f"Carbon of {unknown} of {rows.height} stages is unknown: there is no emission factor." if unknown else "",
            said(rows["energy_kind"], by="shape" if rows.height <= _POINTS else ""),
            subject.synthetic,
        ),
        rows.drop("size"),
    )


def quality(subject: Subject) -> Drawing:
    """Each metric of each task by precision, of what is not pruned."""
    rows = (
        _unpruned(subject)
        .select("precision", "series", "stage_id", "seed", "quality")
        .explode("quality")
        .unnest("quality")
        .with_columns(measure=pl.format("{}: {}", "task", "metric"))
    )
    measures = rows["measure"].unique(maintain_order=True).to_list()
    panels = [
        _by_precision(rows.filter(measure=measure).drop("measure"), "value").properties(
            title=alt.TitleParams(printable(measure), fontSize=12, fontWeight="normal", offset=6),
            width=_PANEL_PX,
            height=_PANEL_HEIGHT,
        )
        for measure in measures[:_PANELS]
    ]
    return Drawing(
        alt.concat(*panels, columns=2),
        caption(
            _what_is_drawn(rows.filter(measure=measures[0])),
            "All metrics go from 0 to 1, and more is better.",
            f"Metrics that are left out: {len(measures) - _PANELS}." if len(measures) > _PANELS else "",
            subject.synthetic,
        ),
        rows.drop("measure"),
    )


def _unpruned(subject: Subject) -> pl.DataFrame:
    """Finished inferences without pruning, the precision with the largest weights first.

    Column `series` says in what those of one precision differ; it is empty where they do not, or where more differ than
    there are colours.
    """
    rows = with_short_models(subject.inferences.filter(pl.col("pruning") == "none"))
    if rows.is_empty():
        raise NothingToDraw("every finished inference is of a pruned model")
    differing = [
        name for name in _TOLD_APART_BY if (rows.select(pl.col(name).n_unique().over("precision")) > 1)[name].any()
    ]
    words = [pl.lit(""), *(pl.col(name).fill_null("unknown") for name in differing)]
    rows = rows.with_columns(
        series=pl.concat_str(words, separator=", ").str.strip_prefix(", "),
        size=pl.col("weight_bytes").mean().over("precision"),
    )
    rows = rows.sort("size", "precision", "series", "stage_id", descending=[True, False, False, False], nulls_last=True)
    return rows if rows["series"].n_unique() <= COLOURS else rows.with_columns(series=pl.lit(""))


def _what_is_drawn(rows: pl.DataFrame) -> str:
    each = "points: each stage" if rows.height <= _POINTS else "lines: from the least stage to the greatest"
    return f"Bars: means over unpruned configurations and seeds; {each}."


def _by_precision(rows: pl.DataFrame, column: str, title: str | None = None, unit: str = "") -> alt.LayerChart:
    """Means as bars and stages as points, per precision and series; of a quality from 0 to 1 where there is no unit."""
    names = [printable(name) for name in rows["precision"].unique(maintain_order=True)]
    series = [printable(name) for name in rows["series"].unique().sort()]
    several = len(series) > 1
    title, axis = with_prefix(title, unit, float(rows[column].max() or 0)) if unit else (None, alt.Axis(tickCount=5))  # type: ignore[arg-type]
    scale = alt.Scale() if unit else alt.Scale(domain=[0, 1])

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=title, axis=axis, scale=scale)

    x = alt.X("precision:N", sort=names, title=None, axis=alt.Axis(labelAngle=0 if len(names) < COLOURS else -30))
    shared: dict[str, Any] = {"x": x.scale(domain=names, paddingInner=0.3)}
    shared |= {"xOffset": alt.XOffset("series:N", sort=series)} if several else {}
    means = rows.group_by("precision", "series", maintain_order=True).agg(
        pl.mean(column), stages=pl.len(), least=pl.min(column), greatest=pl.max(column)
    )
    of: dict[str, str] = {"precision": "precision"} | ({"series": "of"} if several else {})
    about = tips(of, {column: "mean", "stages": "stages", "least": "least", "greatest": "greatest"})
    bars = alt.Chart(inline(means)).encode(**shared, tooltip=about)
    colour = {"color": in_order("series", series, None)} if several else {}
    layers: list[Any] = [bars.mark_bar(opacity=0.75).encode(y=y(column), **colour)]
    if rows.height > _POINTS:
        layers.append(bars.mark_rule(style="ink", strokeWidth=1.5).encode(y=y("least"), y2="greatest:Q"))
    else:
        shape = {"shape": kind_shape(rows["energy_kind"])} if unit else {}
        layers.append(
            alt.Chart(inline(rows))
            .mark_point(style="hollow", filled=True, size=38, strokeWidth=1.5, opacity=1)
            .encode(
                **shared,
                **shape,
                y=y(column),
                tooltip=tips(of | {"stage_id": "stage"}, {column: "value", "seed": "seed"}),
            )
        )
    return panel(*layers, width=HALF, height=_HEIGHT)

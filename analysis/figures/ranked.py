"""Figure of the ranking: scores, what they are made of, and their intervals."""

from typing import Any, Final

import altair as alt
import polars as pl

from analysis.figures.figure import Drawing
from analysis.figures.parts import TOP, in_order, inline, kind_shape, panel, tips
from analysis.figures.subject import Subject, caption, said

_ROW_PX: Final = 22
"""Height of a configuration in a list of them."""

_ENERGY, _QUALITY = "energy: w phi", "quality: (1 - w) rho"


def ranking(subject: Subject) -> Drawing:
    """R by configuration, as the sum of its two parts, with intervals where there are any."""
    rows = subject.rows
    shown, others = rows.head(TOP), rows.tail(-TOP)
    weight = subject.answer.weight
    rest = f"{others.height} others"
    names = [*shown["label"], *([rest] if others.height else [])]
    parts = pl.concat(
        shown.select("label", part=pl.lit(part), order=pl.lit(order), value=value)
        for order, (part, value) in enumerate(
            [(_QUALITY, (1 - weight) * pl.col("rho")), (_ENERGY, weight * pl.col("phi"))]
        )
    )
    y = alt.Y("label:N", sort=names, scale=alt.Scale(domain=names), title=None)
    x = alt.X("value:Q", title="score R", scale=alt.Scale(domain=[0, 1]))
    bars = (
        alt.Chart(inline(parts))
        .mark_bar(height=_ROW_PX * 0.6)
        .encode(
            x=x.stack("zero"),
            y=y,
            color=in_order("part", [_QUALITY, _ENERGY], "part of R"),
            order="order:Q",
            tooltip=tips({"label": "configuration", "part": "part"}, {"value": "of R"}),
        )
    )
    points = shown.select(
        *["rank", "label", "energy_kind", "score", "score_low", "score_high", "phi", "rho"],
        end=pl.coalesce("score_high", "score"),
    )
    base = alt.Chart(inline(points)).encode(
        y=y,
        tooltip=tips(
            {"label": "configuration", "energy_kind": "energy"},
            {"rank": "rank", "score": "R", "score_low": "R from", "score_high": "R to", "phi": "phi", "rho": "rho"},
        ),
    )
    layers: list[Any] = [
        bars,
        base.mark_rule(style="ink", strokeWidth=1.5).encode(x="score_low:Q", x2="score_high:Q"),
        base.mark_point(style="hollow", filled=True, size=45, strokeWidth=1.5, opacity=1).encode(
            x="score:Q", shape=kind_shape(shown["energy_kind"])
        ),
        base.mark_text(style="label", align="left", dx=8).encode(x="end:Q", text=alt.Text("score:Q", format=".3f")),
    ]
    if others.height:
        ticks = inline(others.select("rank", "label", "score", rest=pl.lit(rest)))
        layers.append(
            alt.Chart(ticks)
            .mark_tick(style="faded", opacity=0.5, height=_ROW_PX * 0.6)
            .encode(
                x="score:Q",
                y=alt.Y("rest:N", sort=names),
                tooltip=tips({"label": "configuration"}, {"rank": "rank", "score": "R"}),
            )
        )
    return Drawing(
        panel(*layers, height=_ROW_PX * len(names)),
        caption(
            f"R = {weight:g} phi + {1 - weight:g} rho, phi {subject.answer.phi}, fine-tuning spread over "
            f"{subject.answer.requests:,} requests.",
            _of_intervals(shown, subject.answer.level),
            f"The best {TOP} of {rows.height} configurations; a stroke for each of the others."
            if rest in names
            else "",
            said(rows["energy_kind"]),
            subject.synthetic,
        ),
        points.drop("end"),
    )


def _of_intervals(rows: pl.DataFrame, level: float) -> str:
    known = rows["score_low"].count()
    reasons = rows.filter(pl.col("score_low").is_null())["interval_reason"].drop_nulls().unique(maintain_order=True)
    why = f": {reasons[0]}" if len(reasons) else ""
    if not known:
        return f"No intervals{why}."
    covers = rows["interval_covers"].drop_nulls().unique(maintain_order=True)
    over = f" over {covers[0]}" if len(covers) == 1 else ""
    lines = f"Lines: bootstrap intervals of {100 * level:g} %{over}"
    return f"{lines}." if known == rows.height else f"{lines}; {rows.height - known} have none{why}."

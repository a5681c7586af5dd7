"""Figure of the order over all weights of energy against quality: ranks, and the scores behind them."""

from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl

from analysis.figures.figure import Drawing
from analysis.figures.parts import in_order, inline, panel, picked, tips, unless_picked_away
from analysis.figures.subject import Subject, caption
from analysis.figures.theme import COLOURS
from analysis.metrics import METRICS
from analysis.ranking import SAME_SCORE_DIGITS

_PLACES: Final = 8
"""Ranks that are drawn, …"""

_PLACES_OF_MANY: Final = 5
"""… and where there are many configurations, …"""

_MANY: Final = 50
"""… which is more than this."""

_BEND: Final = 0.012
"""Half of the stretch of weights on which two lines change places, so that both can be followed."""

_RANK_PX: Final = 26

_SCORES_PX: Final = 170

_NAMED: Final = 3
"""Winners that the caption names."""


def weights(subject: Subject) -> Drawing:
    """Who has which rank at which weight, and R itself below."""
    rows, found, weight = subject.rows, subject.answer.weights, subject.answer.weight
    places = _PLACES if rows.height <= _MANY else _PLACES_OF_MANY
    near = found.crossings.filter(pl.col("rank") <= places)
    start = rows.sort("rho", "phi", descending=True)["configuration"].head(places)
    ever = pl.concat([start, near["first"], near["second"]]).unique(maintain_order=True)
    coloured = _most_first(found.winners, rows.filter(pl.col("configuration").is_in(ever.implode()))["configuration"])
    names = rows.select("configuration", "label")
    lines = found.lines.filter(pl.col("configuration").is_in(ever.implode())).join(names, on="configuration")
    lines = lines.with_columns(coloured=pl.col("configuration").is_in(coloured.implode()))
    changes = (
        near.filter(
            pl.col("rank") < places,
            pl.any_horizontal(pl.col(name).is_in(coloured.implode()) for name in ("first", "second")),
        )
        .join(names.rename({"configuration": "first", "label": "below"}), on="first")
        .join(names.rename({"configuration": "second", "label": "above"}), on="second")
        .sort("weight", "rank", "below", "above")
    )
    order = names.join(coloured.to_frame(), on="configuration", maintain_order="right")["label"].to_list()
    ranks = _ranks(lines, near["weight"].unique().sort().to_numpy(), places)
    last = min(places, lines.height)
    x = _weights(METRICS[subject.answer.metric].what)
    at = _at(weight, x)
    return Drawing(
        alt.vconcat(_rank_panel(ranks, changes, order, last, x, at), _score_panel(lines, order, x, at)),
        caption(
            _winners(found.winners.join(names, on="configuration", maintain_order="left")),
            f"Dots: weights at which one in colour changes places; the dashed line is w = {weight:g}.",
            f"Drawn are the first {last} ranks of {rows.height} configurations, computed exactly.",
            "Grey lines are others that are among them at some weight." if lines.height > len(order) else "",
            subject.synthetic,
        ),
        lines.select("label", score_at_0="at_0", score_at_1="at_1"),
    )


def _rank_panel(
    ranks: pl.DataFrame, changes: pl.DataFrame, order: list[str], last: int, x: alt.X, at: alt.Chart
) -> alt.LayerChart:
    y = alt.Y("place:Q", title="rank", scale=alt.Scale(domain=[last + 0.5, 0.5], nice=False))
    y = y.axis(values=list(range(1, last + 1)), format="d", grid=False)
    selection = picked("label")
    dots = alt.Chart(inline(changes.with_columns(place=pl.col("rank") + 0.5)))
    return panel(
        _lines(ranks.filter(~pl.col("coloured")), x, y, strokeWidth=1.5, style="faded"),
        _lines(ranks.filter("coloured"), x, y, strokeWidth=3)
        .encode(color=in_order("label", order, None, lines=True), opacity=unless_picked_away(selection))
        .properties(name="ranks")
        .add_params(selection),
        dots.mark_point(style="hollow", filled=True, size=40, strokeWidth=1.5, opacity=1).encode(
            x=x,
            y=y,
            tooltip=tips({"below": "ahead below w", "above": "ahead above w"}, {"weight": "w", "rank": "for rank"}),
        ),
        at,
        height=_RANK_PX * last,
    )


def _score_panel(lines: pl.DataFrame, order: list[str], x: alt.X, at: alt.Chart) -> alt.LayerChart:
    ends = pl.concat(
        lines.select("label", "coloured", stretch=pl.lit(0), weight=pl.lit(end), score=score)
        for end, score in ((0.0, "at_0"), (1.0, "at_1"))
    )
    y = alt.Y("score:Q", title="score R", scale=alt.Scale(zero=False))
    return panel(
        _lines(ends.filter(~pl.col("coloured")), x, y, strokeWidth=1, style="faded"),
        _lines(ends.filter("coloured"), x, y, strokeWidth=2).encode(
            color=in_order("label", order, None, lines=True), opacity=unless_picked_away(picked("label"))
        ),
        at,
        height=_SCORES_PX,
    )


def _weights(what: str) -> alt.X:
    return alt.X("weight:Q", title=f"weight w: 0 quality alone, 1 {what} alone", scale=alt.Scale(domain=[0, 1]))


def _lines(rows: pl.DataFrame, x: alt.X, y: alt.Y, **look: Any) -> alt.Chart:
    lines: alt.Chart = (
        alt.Chart(inline(rows))
        .mark_line(strokeJoin="round", **look)
        .encode(x=x, y=y, detail=["label:N", "stretch:Q"], tooltip=tips({"label": "configuration"}, {}))
    )
    return lines


def _at(weight: float, x: alt.X) -> alt.Chart:
    drawn = alt.Chart(inline(pl.DataFrame({"weight": [weight]})))
    rule: alt.Chart = drawn.mark_rule(style="quiet", strokeDash=[4, 3]).encode(x=x)
    return rule


def _winners(winners: pl.DataFrame) -> str:
    named = [
        f"{label} from {start:.3g} to {end:.3g}"
        for start, end, label in winners.select("from_weight", "to_weight", "label").head(_NAMED).iter_rows()
    ]
    if winners.height > _NAMED:
        named.append(f"and {winners.height - _NAMED} more")
    return f"First: {'; '.join(named)}."


def _most_first(winners: pl.DataFrame, others: pl.Series) -> pl.Series:
    """As many as have colours: those that are first over most weights, then the best of the others; as they follow."""
    stretch = (pl.col("to_weight") - pl.col("from_weight")).sum()
    most = winners.group_by("configuration", maintain_order=True).agg(stretch=stretch, start=pl.min("from_weight"))
    most = most.sort("stretch", descending=True, maintain_order=True).head(COLOURS).sort("start", maintain_order=True)
    return pl.concat([most["configuration"], others]).unique(maintain_order=True).head(COLOURS)


def _ranks(lines: pl.DataFrame, weights_of_change: Any, last: int) -> pl.DataFrame:
    """Rank of each line over the weights, as corners of a line that is level but where it changes places.

    Lines that never have one of the ranks that are drawn are never ahead of one that has it, so that they can be left
    out of the count. Lines that are equal share a rank. One that falls below the last rank ends, and has another
    `stretch` when it comes back.
    """
    borders = np.unique(np.concatenate([[0.0, 1.0], weights_of_change]))
    middles = (borders[1:] + borders[:-1]) / 2
    rho, phi = lines["at_0"].to_numpy(), lines["at_1"].to_numpy()
    scores = np.round(rho[:, None] * (1 - middles) + phi[:, None] * middles, SAME_SCORE_DIGITS)
    corners = []
    for (label, coloured), own in zip(lines.select("label", "coloured").iter_rows(), scores, strict=True):
        places = np.minimum(1 + (scores > own).sum(axis=0), last + 1)
        first = np.flatnonzero(np.diff(places, prepend=0))
        starts, ends = borders[first], borders[np.append(first[1:], len(places))]
        bend = np.minimum(_BEND, (ends - starts) / 3)
        starts, ends = starts + bend * (starts > 0), ends - bend * (ends < 1)
        stretch = 0
        for start, end, place in zip(starts, ends, places[first], strict=True):
            below = place > last
            height = last + 0.5 if below else float(place)
            if not below or start > 0:
                corners.append((label, coloured, stretch, start, height))
            stretch += int(below)
            if not below or end < 1:
                corners.append((label, coloured, stretch, end, height))
    columns = {
        "label": pl.String,
        "coloured": pl.Boolean,
        "stretch": pl.Int64,
        "weight": pl.Float64,
        "place": pl.Float64,
    }
    return pl.DataFrame(corners, columns, orient="row")

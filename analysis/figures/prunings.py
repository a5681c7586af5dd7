"""Figure of pruning: energy and quality against the same configuration without it."""

from collections.abc import Sequence
from typing import Any, Final

import altair as alt
import polars as pl

from analysis.figures.figure import Drawing, NothingToDraw
from analysis.figures.parts import HALF, in_order, inline, panel, tips
from analysis.figures.subject import Subject, caption, printable, said
from analysis.figures.theme import COLOURS

_ROW_PX: Final = 14
"""Height of a pruning in a list of them, …"""

_PRECISION_PX: Final = 5
"""… and of each of the precisions that are drawn one below the other in it."""

_MOST_ROWS: Final = 24
"""Prunings that are listed."""


def pruning(subject: Subject) -> Drawing:
    """Energy and quality of pruned configurations against the same without pruning."""
    pruned, rows = _against_dense(subject.inferences)
    if not pruned:
        raise NothingToDraw("no finished inference is of a pruned model")
    if rows.is_empty():
        raise NothingToDraw("no pruned configuration has the same without pruning beside it")
    by_quality = rows.group_by("pruning").agg(pl.mean("quality_points"))
    by_quality = by_quality.sort("quality_points", "pruning", descending=[True, False])
    names = by_quality["pruning"].head(_MOST_ROWS).to_list()
    shown = rows.filter(pl.col("pruning").is_in(names))
    return Drawing(
        alt.hconcat(
            _panel(shown, names, "energy_percent", "energy per request, % of dense", 100.0),
            _panel(shown, names, "quality_points", "quality rho, points from dense", 0.0, labelled=False),
        ),
        caption(
            "Each point is a configuration beside the same without pruning (dashed), in inference alone.",
            "Hollow: a simulated pruning, which saves no energy and has that of its dense parent."
            if "simulated" in shown["realised"]
            else "",
            f"Prunings that are left out, those with the least quality: {by_quality.height - len(names)}."
            if by_quality.height > len(names)
            else "",
            f"Configurations without a dense parent are left out: {pruned - rows.height}."
            if pruned > rows.height
            else "",
            said(rows["kinds"].explode(), by=""),
            subject.synthetic,
        ),
        shown.drop("kinds"),
    )


def _against_dense(inferences: pl.DataFrame) -> tuple[int, pl.DataFrame]:
    """How many configurations are pruned; and those that have a dense parent, as means over seeds."""
    means = inferences.group_by("configuration", maintain_order=True).agg(
        pl.first("family", "pruning", "pruning_applied", "precision"),
        pl.mean("inference_energy_j", "rho"),
        simulated=pl.col("realisation").str.contains("simulated").fill_null(value=True).any(),
        kinds=pl.col("inference_kind").unique(),
    )
    dense = means.filter(pl.col("pruning") == "none").select("family", parent_j="inference_energy_j", parent_rho="rho")
    pruned = means.filter(pl.col("pruning") != "none")
    applied = [pl.format("{} tuning", "pruning_applied")] if pruned["pruning_applied"].n_unique() > 1 else []
    share = pl.when("simulated").then(1.0).otherwise(pl.col("inference_energy_j") / pl.col("parent_j"))
    return pruned.height, (
        pruned.join(dense, on="family")
        .select(
            "precision",
            "kinds",
            pruning=pl.concat_str("pruning", *applied, separator=", ", ignore_nulls=True),
            realised=pl.when("simulated").then(pl.lit("simulated")).otherwise(pl.lit("real")),
            energy_percent=100 * share,
            quality_points=100 * (pl.col("rho") - pl.col("parent_rho")),
        )
        .sort("pruning", "precision", "energy_percent", "quality_points")
    )


def _panel(
    rows: pl.DataFrame, names: Sequence[str], column: str, title: str, dense: float, *, labelled: bool = True
) -> alt.LayerChart:
    """One point per configuration, in a row per pruning; hollow where it is simulated."""
    drawn = [printable(name) for name in names]
    precisions = [printable(name) for name in rows["precision"].unique().sort()]
    x = alt.X(f"{column}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    y = alt.Y("pruning:N", sort=drawn, title=None, axis=alt.Axis() if labelled else None).scale(domain=drawn)
    several = precisions if len(precisions) <= COLOURS else []
    by_precision: dict[str, Any] = {
        "yOffset": alt.YOffset("precision:N", sort=precisions),
        "color": in_order("precision", precisions, "precision", columns=COLOURS),
    }
    about = tips(
        {"pruning": "pruning", "precision": "precision", "realised": "realisation"},
        {"energy_percent": "energy, % of dense", "quality_points": "quality, points from dense"},
    )
    real, simulated = (
        alt.Chart(inline(rows.filter(realised=realised).drop("kinds"))).encode(
            x=x, y=y, tooltip=about, **(by_precision if several else {})
        )
        for realised in ("real", "simulated")
    )
    same = alt.Chart(inline(pl.DataFrame({column: [dense]}))).mark_rule(style="quiet", strokeDash=[4, 3])
    return panel(
        same.encode(x=x),
        real.mark_point(filled=True, size=55, opacity=0.85),
        simulated.mark_point(filled=False, size=50, strokeWidth=2, opacity=0.85),
        width=HALF - 10,
        height=(_ROW_PX + _PRECISION_PX * max(len(several), 1)) * len(names),
    )

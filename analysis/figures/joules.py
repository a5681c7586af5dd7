"""Figures of where all joules went: components and nodes, useful and lost."""

from typing import Final

import altair as alt
import polars as pl

from analysis.figures.figure import Drawing, NothingToDraw
from analysis.figures.parts import TOP, in_order, inline, key, panel, tips, with_prefix
from analysis.figures.subject import Subject, caption, in_words, printable, said
from analysis.kinds import ESTIMATED, MEASURED
from analysis.printing import share
from analysis.spent import spent

_ROW_PX: Final = 28
"""Height of a bar and what is around it."""

_WINDOWS: Final = [
    *["calibrate", "prune", "train", "evaluate", "prefill", "decode", "checkpoint", "other", "idle", "unattributed"],
]
"""In the order in which a trial has them, then what belongs to none."""

_OF_NO_STAGE: Final = ["idle", "unattributed"]

_FATES: Final = [
    *["useful", "running", "in a checkpoint"],
    *["lost: stopped", "lost: interrupted", "lost: failed", "lost: diverged", "lost: oom"],
]
"""What becomes of the joules of an attempt, the best first; then come other losses, and what belongs to no stage."""


def components(subject: Subject) -> Drawing:
    """All joules that were metered, by component: per node, and per kind of window."""
    metered = (
        subject.results.energy.with_columns(
            known_j=pl.when(pl.col("energy_j").is_finite()).then("energy_j"),
            energy_kind=pl.when("measured").then(pl.lit(MEASURED)).otherwise(pl.lit(ESTIMATED)),
        )
        .group_by("node", "window", "component", "energy_kind")
        .agg(energy_j=pl.sum("known_j"), unknown=pl.col("known_j").null_count())
        .with_columns(pl.col("node", "window", "component").fill_null("unknown"))
        .sort("node", "window", "component", "energy_kind")
        .collect()
    )
    if not metered["energy_j"].sum():
        raise NothingToDraw("no joule was metered")
    by_node = metered.group_by("node").agg(pl.sum("energy_j")).sort("energy_j", "node", descending=[True, False])
    nodes = by_node["node"].head(TOP).to_list()
    rest = f"{by_node.height - len(nodes)} other nodes"
    metered = metered.with_columns(
        pl.when(pl.col("node").is_in(nodes)).then("node").otherwise(pl.lit(rest)).alias("node")
    )
    windows = [*_WINDOWS, *sorted(set(metered["window"]) - {*_WINDOWS})]
    parts = metered["component"].unique().sort().to_list()
    unknown = int(metered["unknown"].sum())
    return Drawing(
        alt.vconcat(
            _stacked(metered, "node", [*nodes, *([rest] if by_node.height > TOP else [])], parts),
            _stacked(metered, "window", [name for name in windows if name in set(metered["window"])], parts),
        ),
        caption(
            "All joules of these results, of lost attempts too: above per node, below per kind of window; idle and "
            "unattributed belong to no stage.",
            f"Readings that failed, and are missing here: {unknown}." if unknown else "",
            said(metered["energy_kind"], by="pattern: estimated bars are pale, with a dashed outline"),
            subject.synthetic,
        ),
        metered.drop("unknown"),
    )


def _stacked(rows: pl.DataFrame, by: str, names: list[str], parts: list[str]) -> alt.LayerChart:
    drawn = [printable(name) for name in names]
    sums = rows.group_by(by, "component", "energy_kind").agg(pl.sum("energy_j")).sort(by, "component", "energy_kind")
    largest = float(sums.group_by(by).agg(pl.sum("energy_j"))["energy_j"].max())  # type: ignore[arg-type]  # a float
    title, axis = with_prefix("energy", "J", largest)
    estimated = alt.datum.energy_kind == ESTIMATED
    components = [printable(part) for part in parts]
    sums = sums.with_columns(place=pl.col("component").rank("dense"))
    bars = (
        alt.Chart(inline(sums))
        .mark_bar(strokeWidth=1.5, height=_ROW_PX * 0.6)
        .encode(
            x=alt.X("energy_j:Q", title=title, axis=axis),
            y=alt.Y(f"{by}:N", sort=drawn, title=by).scale(domain=drawn),
            color=in_order("component", components, "component", columns=6),
            stroke=alt.Stroke(
                "component:N", scale=alt.Scale(domain=components), sort=None, legend=key("component", columns=6)
            ),
            fillOpacity=alt.when(estimated).then(alt.value(0.35)).otherwise(alt.value(1)),
            strokeDash=alt.when(estimated).then(alt.value([4, 3])).otherwise(alt.value([1, 0])),
            order=alt.Order("place:Q"),
            tooltip=tips({by: by, "component": "component", "energy_kind": "energy"}, {"energy_j": "J"}),
        )
    )
    return panel(bars, height=_ROW_PX * len(names))


def lost(subject: Subject) -> Drawing:
    """What became of the joules of all attempts, and how many belong to none."""
    attempts = spent(subject.results).with_columns(what=in_words(pl.col("kind"))).collect()
    became = pl.when(pl.col("fate") == "lost").then(pl.format("lost: {}", pl.col("state").fill_null("unknown")))
    idle = (
        subject.results.energy.filter(pl.col("window").is_in(_OF_NO_STAGE), pl.col("energy_j").is_finite())
        .select("energy_j", what=pl.lit("no stage"), became="window")
        .collect()
    )
    rows = (
        pl.concat(
            [
                attempts.select("energy_j", "what", became=became.otherwise("fate")),
                attempts.select("what", energy_j="checkpointed_j", became=pl.lit("in a checkpoint")),
                idle,
            ],
            how="diagonal",
        )
        .filter(pl.col("energy_j") > 0)
        .group_by("became", "what")
        .agg(pl.sum("energy_j"))
        .sort("became", "what")
    )
    if rows.is_empty():
        raise NothingToDraw("no attempt has known joules")
    unknown = attempts["energy_j"].null_count()
    return Drawing(
        _by_fate(rows),
        caption(
            _what_became(rows),
            "Useful is also an attempt that the one which finished the stage went on from.",
            f"Attempts whose joules are unknown, and missing here: {unknown}." if unknown else "",
            said(attempts["energy_kind"].drop_nulls(), by=""),
            subject.synthetic,
        ),
        rows,
    )


def _what_became(rows: pl.DataFrame) -> str:
    of_stages = rows.filter(pl.col("what") != "no stage")
    if of_stages.is_empty():
        return "Of no attempt all joules are known."
    total_j = float(of_stages["energy_j"].sum())
    useful, wasted = (
        share(float(of_stages.filter(pl.col("became").str.starts_with(fate))["energy_j"].sum()) / total_j)
        for fate in ("useful", "lost")
    )
    return f"Of the joules that stages took {useful} became a result and {wasted} were lost."


def _by_fate(rows: pl.DataFrame) -> alt.LayerChart:
    found = set(rows["became"])
    others = sorted(found - {*_FATES, *_OF_NO_STAGE})
    fates = [printable(fate) for fate in [*_FATES, *others, *_OF_NO_STAGE] if fate in found]
    kinds = [printable(kind) for kind in rows["what"].unique().sort()]
    largest = float(rows.group_by("became").agg(pl.sum("energy_j"))["energy_j"].max())  # type: ignore[arg-type]
    title, axis = with_prefix("energy", "J", largest)
    bars = (
        alt.Chart(inline(rows.with_columns(place=pl.col("what").rank("dense"))))
        .mark_bar(height=_ROW_PX * 0.6)
        .encode(
            x=alt.X("energy_j:Q", title=title, axis=axis),
            y=alt.Y("became:N", sort=fates, title=None).scale(domain=fates),
            color=in_order("what", kinds, None, columns=4),
            order=alt.Order("place:Q"),
            tooltip=tips({"what": "of", "became": "became"}, {"energy_j": "J"}),
        )
    )
    return panel(bars, height=_ROW_PX * len(fates))

"""Figure of power over time: mean power of the successive windows of one stage, in steps."""

from typing import Any, Final

import altair as alt
import polars as pl

from analysis.figures.figure import Drawing, NothingToDraw
from analysis.figures.parts import WIDTH, in_order, inline, panel, picked, tips, unless_picked_away
from analysis.figures.subject import Subject, caption, in_words, named_stages, printable, said
from analysis.figures.theme import COLOURS
from analysis.kinds import AROUND, ESTIMATED, MEASURED
from energyaware.errors import InputError

_STEPS: Final = 200
"""Steps of a line; where there are more windows, neighbours are merged."""

_GAP: Final = 0.003
"""Windows that are further apart than this share of the time drawn are not joined."""

_HEIGHT: Final = 240

_STRIP_PX: Final = 20

_LETTER_PX: Final = 6.0

_LINE: Final = ["node", "component", "device"]
"""What has a line of its own."""

_DASHES: Final = {MEASURED: [1, 0], ESTIMATED: [5, 2]}


def power(subject: Subject) -> Drawing:
    """Power of a stage over time."""
    stage = _stage(subject)
    windows = (
        subject.results.energy.filter(
            pl.col("stage_id") == stage["stage_id"],
            pl.col("attempt") == stage["attempt"],
            ~pl.col("window").is_in(AROUND),
            pl.col("duration_s") > 0,
            pl.col("started_at").is_not_null(),
        )
        .with_columns(
            power_w=pl.coalesce("power_w", pl.col("energy_j") / pl.col("duration_s")),
            from_s=(pl.col("started_at") - pl.col("started_at").min()).dt.total_microseconds() / 1e6,
        )
        .with_columns(to_s=pl.col("from_s") + pl.col("duration_s"))
        .sort(*_LINE, "from_s", "window")
        .collect()
    )
    known = windows.filter(pl.col("power_w").is_finite())
    if known.is_empty():
        raise NothingToDraw(f"stage {stage['stage_id']} has no window with a time and known joules")
    steps = _merged(known.with_columns(series=_name_of_line(known)))
    until_s = float(windows["to_s"].max())  # type: ignore[arg-type]  # a float: there are rows
    of_what = "a window, or of several that follow each other" if steps.height < known.height else "a window"
    return Drawing(
        alt.vconcat(_lines(steps, until_s), _strip(windows, until_s), spacing=6),
        caption(
            f"The {stage['words']} {stage['label']} (stage {stage['stage_id']}){_which_attempt(stage)}.",
            f"Each step is the mean power of {of_what}: what happens within it is not seen.",
            f"Readings that failed, and are missing here: {windows.height - known.height}."
            if windows.height > known.height
            else "",
            said(steps["energy_kind"], by="dashes"),
            subject.synthetic,
        ),
        steps,
    )


def _stage(subject: Subject) -> dict[str, Any]:
    """The stage to draw, with its `label`, and its kind in `words`.

    Raises:
        InputError: the stage that is asked for is not there.
        NothingToDraw: there is none.
    """
    wanted = subject.stage
    among = subject.stages if wanted else subject.stages.filter("asked")
    stages = among.sort("kind", "duration_s", "stage_id", descending=[False, True, False], nulls_last=True)
    if wanted:
        stages = stages.filter(pl.col("stage_id").str.starts_with(wanted))
        if stages.height != 1:
            which = "the beginning of several stages' ids" if stages.height else "no finished stage of these results"
            raise InputError("figures", "stage", f"{wanted!r} is {which}")
    if stages.is_empty():
        raise NothingToDraw("no stage is finished")
    alike = stages.filter(pl.col("kind").eq_missing(pl.lit(stages["kind"][0], pl.String)))
    return named_stages(alike).with_columns(words=in_words(pl.col("kind"))).row(0, named=True)


def _which_attempt(stage: dict[str, Any]) -> str:
    went_on = f", its attempt {stage['attempt']} alone, which went on from an earlier one"
    return went_on if stage["carried_attempts"] else ""


def _name_of_line(windows: pl.DataFrame) -> pl.Expr:
    """The component, with device and node where there are several."""
    several = [name for name in ("device", "node") if windows[name].drop_nulls().n_unique() > 1]
    return pl.concat_str("component", *several, separator=" ", ignore_nulls=True)


def _merged(windows: pl.DataFrame) -> pl.DataFrame:
    """Windows of each line, with neighbours put together where they are too many to be told apart."""
    number, count = pl.int_range(pl.len()).over(_LINE), pl.len().over(_LINE)
    return (
        windows.with_columns(step=pl.when(count > _STEPS).then(number * _STEPS // count).otherwise(number))
        .group_by(*_LINE, "series", "step", maintain_order=True)
        .agg(
            pl.col("window").unique(maintain_order=True).str.join(", "),
            pl.col("from_s").min(),
            pl.col("to_s").max(),
            power_w=(pl.col("power_w") * pl.col("duration_s")).sum() / pl.col("duration_s").sum(),
            energy_kind=pl.when(pl.col("measured").fill_null(value=False).all())
            .then(pl.lit(MEASURED))
            .otherwise(pl.lit(ESTIMATED)),
        )
        .drop("step")
    )


def _lines(steps: pl.DataFrame, until_s: float) -> alt.LayerChart:
    """A line per component, device and node, level over each step; broken where nothing was metered."""
    apart = pl.col("from_s") - pl.col("to_s").shift(1).over(_LINE) > _GAP * until_s
    steps = steps.with_columns(stretch=apart.fill_null(value=False).cum_sum().over(_LINE))
    corners = pl.concat(
        steps.with_columns(time_s=time, corner=pl.lit(corner)) for corner, time in enumerate(("from_s", "to_s"))
    ).sort(*_LINE, "from_s", "corner", nulls_last=True)
    by = "series" if steps["series"].n_unique() <= COLOURS else "component"
    values = [printable(value) for value in steps[by].unique().sort()]
    kinds = [kind for kind in _DASHES if kind in set(steps["energy_kind"])]
    highest_w = float(steps["power_w"].max())  # type: ignore[arg-type]  # a float: there are rows
    selection = picked(by)
    line = (
        alt.Chart(inline(corners.drop("from_s", "to_s", "corner")))
        .mark_line(strokeWidth=2 if by == "series" else 1, strokeJoin="miter")
        .encode(
            x=alt.X("time_s:Q", title=None, scale=alt.Scale(domain=[0, until_s], nice=False)).axis(
                labels=False, ticks=False
            ),
            y=alt.Y("power_w:Q", title="mean power, W", scale=alt.Scale(domain=[0, 1.06 * highest_w or 1.0])),
            color=in_order(by, values, "component", columns=3, lines=True),
            strokeDash=alt.StrokeDash(
                "energy_kind:N",
                scale=alt.Scale(domain=kinds, range=[_DASHES[kind] for kind in kinds]),
                legend=alt.Legend(title="energy", orient="bottom", symbolType="stroke"),
            ),
            detail=["node:N", "device:N", "stretch:Q"],
            opacity=unless_picked_away(selection),
            tooltip=tips({"series": "component", "window": "window", "energy_kind": "energy"}, {"power_w": "W"}),
        )
        .properties(name="power")
        .add_params(selection)
    )
    return panel(line, height=_HEIGHT)


def _strip(windows: pl.DataFrame, until_s: float) -> alt.LayerChart:
    """Which window there was when, on the first of the nodes; neighbours of one name are one."""
    first = windows.filter(pl.col("node") == windows["node"][0]).unique(["from_s", "window"], maintain_order=True)
    runs = (
        first.sort("from_s", "window")
        .with_columns(run=pl.col("window").rle_id())
        .group_by("run", maintain_order=True)
        .agg(pl.first("window"), pl.col("from_s").min(), pl.col("to_s").max(), windows=pl.len())
        .with_columns(middle_s=(pl.col("from_s") + pl.col("to_s")) / 2)
    )
    wide = (pl.col("to_s") - pl.col("from_s")) * WIDTH / until_s > _LETTER_PX * pl.col("window").str.len_chars() + 4

    def x(time: str) -> alt.X:
        scale = alt.Scale(domain=[0, until_s], nice=False)
        return alt.X(f"{time}:Q", title="time since the first window, s", scale=scale)

    boxes = (
        alt.Chart(inline(runs))
        .mark_rect(style="band")
        .encode(
            x=x("from_s"),
            x2="to_s:Q",
            tooltip=tips({"window": "window"}, {"from_s": "from, s", "to_s": "to, s", "windows": "windows"}),
        )
    )
    text = alt.Chart(inline(runs.filter(wide))).mark_text(style="note").encode(x=x("middle_s"), text="window:N")
    return panel(boxes, text, height=_STRIP_PX)

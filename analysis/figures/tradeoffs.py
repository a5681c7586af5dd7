"""Figures of what no weight decides: quality against energy, and when a fine-tuning has paid for itself."""

import math
from collections.abc import Callable
from typing import Any, Final, Literal

import altair as alt
import numpy as np
import polars as pl

from analysis.figures.figure import Drawing
from analysis.figures.parts import (
    WIDTH,
    decades,
    fitting,
    in_order,
    inline,
    kind_shape,
    panel,
    picked,
    tips,
    unless_picked_away,
)
from analysis.figures.subject import Subject, caption, said
from analysis.figures.theme import COLOURS
from analysis.printing import number
from analysis.tradeoffs import break_even as break_even_of

_HEIGHT: Final = 340

_LETTER_PX: Final = 5.8
"""Mean width of a letter of a label."""

_LINE_PX: Final = 15
"""Height of a label with what is to be free around it."""

_LETTERS: Final = 34
"""Longer labels of points are cut; whole ones are in the tooltips."""

_LOGARITHMIC: Final = 8.0
"""Energies that differ by more than this factor are drawn on a logarithmic axis."""

_MOST_REQUESTS: Final = 1e9
"""Break-evens beyond are not drawn."""

_SIDES: Final[list[tuple[str, Literal["left", "right"], int]]] = [("left", "right", -6), ("right", "left", 2)]
"""Where a label stands of its point, with its alignment and its distance in px."""

_STEPS: Final = 60
"""Points of a curve."""

_NAMED: Final = 3
"""Break-evens that a caption names."""


def pareto(subject: Subject) -> Drawing:
    """Quality against energy; who is dominated is faded."""
    dominating = subject.rows.select(dominated_by="configuration", dominating="label")
    rows = subject.rows.join(dominating, on="dominated_by", how="left", maintain_order="left").select(
        *["rank", "label", "rho", "ranked_by", "energy_kind", "on_front", "dominating", "score"],
        *["energy_low", "energy_high", "rho_low", "rho_high"],
    )
    front = rows.filter("on_front").sort("ranked_by", "rho", "label")
    x, across = _energy_axis(subject.ranked_by, rows["ranked_by"], front)
    heights = fitting(
        pl.concat([rows["rho"], front["rho_low"], front["rho_high"]]).drop_nulls(), 0.1, lowest=0, highest=1.03
    )
    y = alt.Y("rho:Q", title="quality rho", scale=alt.Scale(domain=heights, nice=False))
    named = _placed(front, across, lambda rho: _HEIGHT * (heights[1] - rho) / (heights[1] - heights[0]))
    shape = kind_shape(rows["energy_kind"])
    tooltip = tips(
        {"label": "configuration", "energy_kind": "energy", "dominating": "dominated by"},
        {"rho": "quality rho", "ranked_by": subject.ranked_by, "rank": "rank", "score": "R"},
    )
    dominated = alt.Chart(inline(rows.filter(~pl.col("on_front")))).encode(x=x, y=y, shape=shape, tooltip=tooltip)
    best = alt.Chart(inline(front)).encode(x=x, y=y, tooltip=tooltip)
    layers: list[Any] = [
        dominated.mark_point(style="faded", filled=True, size=45, opacity=0.8),
        best.mark_line(style="ink", interpolate="step-after", strokeWidth=1.5),
        best.mark_rule(style="ink", opacity=0.45).encode(x="energy_low:Q", x2="energy_high:Q"),
        best.mark_rule(style="ink", opacity=0.45).encode(y="rho_low:Q", y2="rho_high:Q"),
        best.mark_point(style="ink", filled=True, size=70, opacity=1).encode(shape=shape),
        *(
            alt.Chart(inline(named.filter(side=side)))
            .mark_text(style="label", align=align, dx=dx, dy=-8)
            .encode(x=x, y=y, text="text:N")
            for side, align, dx in _SIDES
        ),
    ]
    return Drawing(
        panel(*layers, height=_HEIGHT),
        caption(
            f"Line: the {front.height} of {rows.height} configurations that no other is at least as good as in both.",
            "Grey: dominated ones." if front.height < rows.height else "",
            "Thin lines are their bootstrap intervals." if front["energy_low"].count() else "",
            f"Labels that would overlap are left out: {front.height - named.height}."
            if named.height < front.height
            else "",
            said(rows["energy_kind"]),
            subject.synthetic,
        ),
        rows,
    )


def _energy_axis(title: str, energies: pl.Series, front: pl.DataFrame) -> tuple[alt.X, Callable[[float], float]]:
    """The axis, with room for the label of the least energy at its left; and where on it an energy is, in px."""
    known = pl.concat([energies, front["energy_low"], front["energy_high"]]).drop_nulls()
    low, high = float(known.min()), float(known.max())  # type: ignore[arg-type]  # floats, none null
    logarithmic = low > 0 and high > _LOGARITHMIC * low
    scale: Callable[[float], float] = math.log10 if logarithmic else float
    start, end = scale(low), scale(high)
    span = (end - start) or abs(end) or 1.0
    room = min(_LETTER_PX * min(len(front["label"][0]), _LETTERS) + 20, 0.4 * WIDTH)
    start, end = start - span * room / (WIDTH - room), end + 0.04 * span
    if not logarithmic:
        start = max(start, 0.0)
    domain = [10**start, 10**end] if logarithmic else [start, end]
    axis = decades(*domain) if logarithmic else alt.Axis(tickCount=7)
    x = alt.X("ranked_by:Q", title=title, axis=axis)
    x = x.scale(type="log" if logarithmic else "linear", domain=domain, nice=False)
    return x, lambda energy: WIDTH * (scale(energy) - start) / (end - start)


def _placed(front: pl.DataFrame, across: Callable[[float], float], down: Callable[[float], float]) -> pl.DataFrame:
    """The labels that fit, the best ranks first: at the left above their point, where nothing else can be, or right."""
    taken: list[tuple[float, float, float]] = []
    found = []
    for row in front.sort("rank", "label").to_dicts():
        letters = row["label"]
        text = letters if len(letters) <= _LETTERS else letters[: _LETTERS - 1] + "…"
        at, height, width = across(row["ranked_by"]), down(row["rho"]), _LETTER_PX * len(text)
        side = "left" if at - width >= 0 else "right"
        start, end = (at - width, at) if side == "left" else (at, at + width)
        if end <= WIDTH and all(
            end < other[0] or start > other[1] or abs(height - other[2]) >= _LINE_PX for other in taken
        ):
            taken.append((start, end, height))
            found.append({"text": text, "side": side, "ranked_by": row["ranked_by"], "rho": row["rho"]})
    return pl.DataFrame(found, {"text": pl.String, "side": pl.String, "ranked_by": pl.Float64, "rho": pl.Float64})


def break_even(subject: Subject) -> Drawing:
    """Joules of fine-tuning and all requests together, over the number of requests."""
    rows = subject.rows.with_columns(finetune_j="finetune_energy_j", inference_j="inference_energy_j_per_request")
    different = rows.unique(["finetune_j", "inference_j"], keep="first", maintain_order=True)
    shown = _cheapest_and_best(different)
    names = shown.select("label", "finetune_j", "inference_j", cheaper_below="configuration")
    crossings = (
        break_even_of(shown)
        .filter(pl.col("requests") <= _MOST_REQUESTS)
        .join(names.rename({"label": "below"}), on="cheaper_below")
        .join(shown.select(above="label", cheaper_above="configuration"), on="cheaper_above")
        .select("requests", "below", "above", total_j=_total_j("requests"))
        .sort("requests", "below", "above")
    )
    furthest = max(10.0 * subject.answer.requests, 3.0 * float(crossings["requests"].max() or 0))  # type: ignore[arg-type]
    numbers = pl.DataFrame({"requests": np.logspace(0, math.ceil(math.log10(furthest)), _STEPS)})
    curves = names.join(numbers, how="cross").select("label", "requests", total_j=_total_j("requests"))
    selection = picked("label")
    totals = [0.8 * float(curves["total_j"].min()), 1.25 * float(curves["total_j"].max())]  # type: ignore[arg-type]
    until = [1.0, float(numbers["requests"][-1])]
    x = alt.X("requests:Q", title="requests", axis=decades(*until)).scale(type="log", domain=until)
    y = alt.Y("total_j:Q", title="fine-tuning and all requests, J", axis=decades(*totals)).scale(
        type="log", domain=totals
    )
    lines = (
        alt.Chart(inline(curves), name="curves")
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=in_order("label", shown["label"].to_list(), None, lines=True),
            opacity=unless_picked_away(selection),
            tooltip=tips({"label": "configuration"}, {"requests": "requests", "total_j": "total, J"}),
        )
        .add_params(selection)
    )
    dots = (
        alt.Chart(inline(crossings))
        .mark_point(style="hollow", filled=True, size=45, strokeWidth=1.5, opacity=1)
        .encode(
            x=x,
            y=y,
            tooltip=tips(
                {"below": "cheaper for fewer", "above": "cheaper for more"}, {"requests": "requests", "total_j": "J"}
            ),
        )
    )
    now = alt.Chart(inline(pl.DataFrame({"requests": [float(subject.answer.requests)]})))
    return Drawing(
        panel(lines, now.mark_rule(style="quiet", strokeDash=[4, 3]).encode(x=x), dots, height=_HEIGHT),
        caption(
            _paid_for(crossings),
            f"The dashed line is at the {subject.answer.requests:,} requests of the ranking.",
            f"Drawn are {shown.height} of {rows.height} configurations: those that are the cheapest at some number of "
            "requests, and the best ranks; of equal ones the first."
            if shown.height < rows.height
            else "",
            "Simulated prunings have the energy of their dense parent."
            if (shown["energy_from"] == "dense parent").any()
            else "",
            said(rows["energy_kind"], by=""),
            subject.synthetic,
        ),
        _as_table(shown, crossings),
    )


def _as_table(shown: pl.DataFrame, crossings: pl.DataFrame) -> pl.DataFrame:
    """What each line is made of, and what it is cheaper than from how many requests on."""
    overtakes = [f"{row['below']} from {number(row['requests'])}" for row in crossings.to_dicts()]
    cheaper = crossings.select(label="above", cheaper_than=pl.Series(overtakes, dtype=pl.String))
    cheaper = cheaper.group_by("label", maintain_order=True).agg(pl.col("cheaper_than").str.join("; "))
    columns = ["label", "finetune_energy_j", "inference_energy_j_per_request"]
    return shown.select(columns).join(cheaper, on="label", how="left", maintain_order="left")


def _total_j(requests: str) -> pl.Expr:
    return pl.col("finetune_j") + pl.col("inference_j") * pl.col(requests)


def _cheapest_and_best(rows: pl.DataFrame) -> pl.DataFrame:
    """As many as have colours: those that take the fewest joules somewhere, then the best ranks; in their order."""
    numbers = np.logspace(0, math.log10(_MOST_REQUESTS), _STEPS)
    totals = rows["finetune_j"].to_numpy()[:, None] + rows["inference_j"].to_numpy()[:, None] * numbers
    cheapest = rows["configuration"].gather(np.unique(totals.argmin(axis=0)))
    order = pl.concat([cheapest, rows["configuration"]]).unique(maintain_order=True).head(COLOURS)
    return rows.filter(pl.col("configuration").is_in(order.implode()))


def _paid_for(crossings: pl.DataFrame) -> str:
    if crossings.is_empty():
        return "None overtakes another: which takes fewer joules does not depend on the number of requests."
    first = [
        f"{row['above']} instead of {row['below']} from {number(row['requests'])}"
        for row in crossings.head(_NAMED).to_dicts()
    ]
    if crossings.height > len(first):
        first.append(f"and {crossings.height - len(first)} more")
    return f"Dots: requests from which on another takes fewer joules: {'; '.join(first)}."

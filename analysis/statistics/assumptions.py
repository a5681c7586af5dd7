"""Whether the assumptions of an analysis of variance hold: each tested where it can be, and said where it cannot."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scipy import stats

from analysis.statistics.anova import Fit
from analysis.statistics.design import balance
from analysis.statistics.factors import Columns, Factor
from analysis.statistics.holm import correct
from analysis.statistics.least_squares import NOTHING
from energyaware.errors import few

ALPHA: Final = 0.05
"""An assumption is called violated below this p."""

_NORMALITY: Final = (3, 5000)
"""Observations that the p of Shapiro-Wilk is made for (Royston 1995, Applied Statistics 44, 547-551)."""

_GROUP: Final = 3
"""Observations per level from which on scatter is compared: around their median two scatter equally, by arithmetic."""

_INFLUENTIAL: Final = 1.0
"""Cook's distance from which on an observation moves the effects notably (Cook & Weisberg 1982)."""

_HIGH_LEVERAGE: Final = 2.0
"""In means of the leverage: the usual bound (Hoaglin & Welsch 1978, American Statistician 32, 17-22)."""


def assumption_rows(fitted: Fit, stages: Sequence[str], shared: str) -> list[dict[str, Any]]:
    """One row per assumption and, for equal variances, per factor.

    Args:
        fitted: the whole model.
        stages: ids of the observations.
        shared: what the observations have in common, in words.

    Returns:
        assumption, test, about (a factor), statistic, p (of equal variances Holm's, over the factors), holds (None
        where that cannot be told), finding (in words).
    """
    balanced, found = balance(fitted.design)
    return [
        _normality(fitted),
        *_equal_variances(fitted),
        _influence(fitted, stages),
        {
            "assumption": "balanced design",
            "holds": balanced,
            "finding": found + ("" if balanced else ": sums of squares are of type II, adjusted for other terms"),
        },
        {"assumption": "independence", "finding": f"not tested: {shared}"},
    ]


def _normality(fitted: Fit) -> dict[str, Any]:
    row: dict[str, Any] = {"assumption": "normal residuals", "test": "Shapiro-Wilk"}
    fewest, most = _NORMALITY
    observations = fitted.design.observations
    if fitted.exact:
        return row | {"finding": f"not tested: {fitted.exact}"}
    if not fewest <= observations <= most:
        return row | {"finding": f"not tested: {observations} stages, and the test is made for {fewest} to {most}"}
    statistic, p = stats.shapiro(fitted.whole.resid)
    return row | _judged(float(statistic), float(p), "residuals look normal", "residuals are not normal")


def _equal_variances(fitted: Fit) -> list[dict[str, Any]]:
    """Brown-Forsythe per factor: Levene's test around medians (Brown & Forsythe 1974, JASA 69, 364-367)."""
    rows: list[dict[str, Any]] = []
    for factor in fitted.design.factors.values():
        row: dict[str, Any] = {"assumption": "equal variances", "test": "Brown-Forsythe", "about": factor.name}
        groups, why_not = _groups(fitted, factor)
        if why_not:
            rows.append(row | {"finding": f"not tested: {why_not}"})
        else:
            statistic, p = stats.levene(*groups, center="median")
            rows.append(row | {"statistic": float(statistic), "p": float(p)})
    correct(rows)
    for row in rows:
        if "p_holm" in row:
            good, bad = "residuals scatter alike", f"residuals scatter unlike over {row['about']}"
            row.update(_judged(row["statistic"], row.pop("p_holm"), good, bad))
    return rows


def _groups(fitted: Fit, factor: Factor) -> tuple[list[Columns], str | None]:
    """Residuals by level, or why they cannot be compared."""
    if fitted.exact:
        return [], fitted.exact
    levels = np.array([factor.levels.index(value or factor.reference) for value in factor.values])
    groups = [fitted.whole.resid[levels == number] for number in range(len(factor.levels))]
    groups = [group for group in groups if len(group) >= _GROUP]
    if len(groups) < 2:  # noqa: PLR2004 - to compare takes two
        return [], f"fewer than two levels with {_GROUP} stages"
    distances = [np.abs(group - np.median(group)) for group in groups]
    if max(map(np.ptp, distances)) <= 1e-9 * max(map(np.max, distances)):
        return [], "too few stages per level: distances from the median do not differ"
    return groups, None


def _influence(fitted: Fit, stages: Sequence[str]) -> dict[str, Any]:
    """Leverage, Cook's distance, and outliers: externally studentised residuals beyond chance, after Bonferroni."""
    row: dict[str, Any] = {"assumption": "no influential stage", "test": "Cook's distance, studentised residuals"}
    if fitted.error is None:
        return row | {"finding": f"not tested: {fitted.exact}"}
    leverage, cook, outlying = influence(fitted)
    known = np.isfinite(cook)
    influential = [stages[int(i)] for i in np.flatnonzero(known & ((cook > _INFLUENTIAL) | outlying))]
    high = int((leverage > _HIGH_LEVERAGE * leverage.mean()).sum())
    findings = [f"influential or outlying: {few(influential)}"] if influential else ["none stands out"]
    if high:
        findings.append(f"{high} of high leverage (more than {_HIGH_LEVERAGE:g} times the mean)")
    if missed := int((~known).sum()):
        findings.append(f"{missed} not judged: the model passes through them")
    holds = not influential if known.any() else None
    return row | {
        "statistic": float(cook[known].max()) if known.any() else None,
        "holds": holds,
        "finding": "; ".join(findings),
    }


def influence(fitted: Fit) -> tuple[Columns, Columns, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Leverage, Cook's distance (NaN where the model passes through an observation), and which are outliers."""
    whole, rank = fitted.whole, fitted.design.observations - fitted.df_residual
    leverage = fitted.leverage
    free = np.where(1 - leverage > NOTHING, 1 - leverage, np.nan)
    squared = whole.resid**2 / (whole.mse_resid * free)
    cook = squared * leverage / (free * rank)
    df = fitted.df_residual - 1
    if df < 1:
        return leverage, cook, np.zeros(len(cook), bool)
    rest = np.clip(fitted.df_residual - squared, 1e-12, None)
    p = 2 * stats.t.sf(np.sqrt(squared * df / rest), df)
    return leverage, cook, np.asarray(p * len(cook) < ALPHA)


def _judged(statistic: float, p: float, good: str, bad: str) -> dict[str, Any]:
    holds = p >= ALPHA
    return {"statistic": statistic, "p": p, "holds": holds, "finding": good if holds else bad}

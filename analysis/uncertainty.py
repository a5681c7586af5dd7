"""How sure a ranking is: intervals of energy, quality and score, and the probability that each configuration is best.

A hierarchical bootstrap. In each draw

1. seeds are drawn with replacement, the same ones for all configurations that were run under the same seeds; with
   them come the joules of that seed's fine-tuning and inference, and its quality. Its repeats are not drawn once more:
   how far they vary is in what seeds differ by, and would be counted twice (Davison and Hinkley 1997, Bootstrap Methods
   and their Application, section 3.8, strategy 1);
2. where there is one seed, the repeats of its prefill and decode windows are drawn instead;
3. a simulated pruning draws what its dense parent does, so both have the same inference joules in every draw;
4. the mean quality of the drawn seeds is replaced by what it might have been on another test set of the same size, the
   same one for all configurations that answered the same number of examples;
5. phi, the score and the rank are computed anew, with the least and the greatest energy of the draw.

Intervals are percentiles of the draws. What they do not cover: errors that all measurements share, such as those of a
meter or of a model that estimates joules, other machines, other training data.

How far to trust them:
- Few measurements tell little of how far others might lie, so draws reach further than these do, as Student's t does
  (`analysis.draws`). Of normal data, intervals of 95 % of energy hold the true mean in 94 to 96 % of the cases, with 2
  seeds as with 20. Without that they held it in 63 % with 2, 80 % with 3 and 85 % with 5. The price is width: with 2
  seeds they reach 16 times as far from the mean as either seed. With one seed they tell of its repeats alone.
- Only where answers differ can a configuration be ahead of another: of what each example adds, the same examples are
  drawn for all. Macro-F1 and BLEU, which are no means over examples, are drawn by their jackknife values. Of pairs that
  are equally good, on 50 to 500 examples, 0 to 9 % are called apart and most often 4 to 6, where 5 are allowed for.
- Rows of schema versions before 7 do not tell of single examples. Draws of their test sets are independent: where two
  err on the same examples, they are called a tie too often rather than too rarely (next to none are called apart).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from analysis.candidates import Energy
from analysis.load import Results
from analysis.metrics import Metric
from analysis.ranking import Phi, ranking
from energyaware.errors import InputError

if TYPE_CHECKING:
    from analysis.draws import Floats
    from analysis.replicates import Configuration, Measured

SCHEMA: Final = pl.Schema(
    {
        "configuration": pl.String(),
        **dict.fromkeys(["energy_low", "energy_high", "rho_low", "rho_high", "score_low", "score_high"], pl.Float64()),
        **dict.fromkeys(["rank_low", "rank_high"], pl.Int64()),
        "best_probability": pl.Float64(),
        "tied_with_best": pl.Boolean(),
        "replicates": pl.Int64(),
        "interval_covers": pl.String(),
        "interval_reason": pl.String(),
    }
)

_FEWEST_DRAWS: Final = 100
"""Fewer say nothing of tails."""


def uncertainty(
    results: Results,
    weight: float = 0.5,
    requests: int = 10_000,
    phi: Phi = "minmax",
    *,
    energy: Energy = "gross",
    metric: Metric = "request",
    allow_mixed: bool = False,
    asked_only: bool = True,
    gpu_kind: str | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    rows: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """How sure the ranking is that the same arguments give.

    Args:
        results: as of `analysis.ranking.ranking`, and so are all that are not named here.
        weight: likewise.
        requests: likewise.
        phi: likewise.
        energy: likewise.
        metric: likewise.
        allow_mixed: likewise.
        asked_only: likewise.
        gpu_kind: likewise.
        draws: of the bootstrap, at least 100.
        level: share of the draws that an interval holds, between 0 and 1.
        seed: of the draws. The same seed gives the same draws of a configuration, whoever else is compared.
        rows: the ranking of the same arguments, collected, where it is at hand; else it is ranked anew.

    Returns:
        One row per configuration, in the order of the ranking.

        configuration: as in the ranking.
        energy_low, energy_high: interval of `ranked_by`; null where nothing was measured more than once.
        rho_low, rho_high, score_low, score_high, rank_low, rank_high: likewise of rho, score and rank.
        best_probability: share of the draws in which its score is the highest; equal ones divide a draw among them.
        tied_with_best: whether its score is at least that of the first of the ranking in (1 - level) / 2 of the draws
            or more, such as 2.5 %; those of rank 1 are. A bootstrap test that two scores are the same (Efron and
            Tibshirani 1993, An Introduction to the Bootstrap, chapter 16), two-sided because the first was not chosen
            in advance; of each alone: of very many equal ones some are still told apart from the first.
        replicates: measurements of its inference energy, repeats of all seeds.
        interval_covers: in words, over what the intervals were drawn.
        interval_reason: why there is no interval of something, else null. The scores of all depend on the least and
            the greatest energy, so scores, ranks and probabilities are null for all where the energy of one is not
            known to vary; likewise quality. What has no weight is not missed.

    Raises:
        InputError: an argument is out of its range.
        NotComparable: as of the ranking.
    """
    _check(draws, level, seed)
    options: dict[str, Any] = {"metric": metric, "asked_only": asked_only, "gpu_kind": gpu_kind}
    if rows is None:
        rows = ranking(results, weight, requests, phi, energy=energy, allow_mixed=allow_mixed, **options).collect()
    if rows.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    from analysis.draws import Bootstrap
    from analysis.replicates import configurations, qualities

    bootstrap = Bootstrap(draws, seed)
    compared = configurations(results, rows, energy, options)
    energies = [one.ranked_by(metric, requests, bootstrap) for one in compared]
    graded = qualities(compared, bootstrap)
    missing = [*_lacking("energy", energies, weight), *_lacking("quality", graded, 1 - weight)]
    columns = {
        **_interval("energy", energies, rows["ranked_by"], level),
        **_interval("rho", graded, rows["rho"], level),
        **({} if missing else _order(energies, graded, rows, weight, phi, level)),
        "configuration": rows["configuration"],
        "replicates": [sum(one.source.repeats) for one in compared],
        "interval_covers": [_covers(*every) for every in zip(compared, energies, graded, strict=True)],
        "interval_reason": [
            "; ".join([*_why_none(*every), *missing]) or None for every in zip(compared, energies, graded, strict=True)
        ],
    }
    return pl.DataFrame({name: columns.get(name, [None] * rows.height) for name in SCHEMA}, schema=SCHEMA)


def _check(draws: int, level: float, seed: int) -> None:
    if draws < _FEWEST_DRAWS:
        raise InputError("uncertainty", "draws", f"{draws} is not allowed: a number of at least {_FEWEST_DRAWS}")
    if not 0 < level < 1:
        raise InputError("uncertainty", "level", f"{level} is not allowed: a number between 0 and 1, such as 0.95")
    if seed < 0:
        raise InputError("uncertainty", "seed", f"{seed} is not allowed: a number of at least 0")


def _interval(
    name: str, drawn: "Sequence[Floats | None]", estimates: pl.Series, level: float
) -> dict[str, list[float | None]]:
    """Columns `name_low` and `name_high`, null where nothing was drawn."""
    import numpy as np

    from analysis.intervals import interval

    known = [index for index, values in enumerate(drawn) if values is not None]
    ends: list[list[float | None]] = [[None] * len(drawn), [None] * len(drawn)]
    if known:
        values = np.array([drawn[index] for index in known])
        for end, found in zip(ends, interval(values, estimates.to_numpy()[known], level), strict=True):
            for index, value in zip(known, found.tolist(), strict=True):
                end[index] = value
    return {f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _order(
    energies: "Sequence[Floats | None]",
    qualities: "Sequence[Floats | None]",
    rows: pl.DataFrame,
    weight: float,
    phi: Phi,
    level: float,
) -> dict[str, Any]:
    """Columns of scores, ranks, and of who is best, where all that has weight is known of all."""
    import numpy as np

    from analysis.intervals import best_shares, efficiencies, interval, ranks

    scores = np.zeros((rows.height, 1))
    if weight > 0:
        scores = scores + weight * efficiencies(np.array(energies), phi)
    if weight < 1:
        scores = scores + (1 - weight) * np.array(qualities)
    ranked = ranks(scores)
    score_low, score_high = interval(scores, rows["score"].to_numpy(), level)
    rank_low, rank_high = interval(ranked, rows["rank"].to_numpy(), level)
    not_worse = (ranked <= ranked[0]).mean(axis=1)
    return {
        "score_low": score_low,
        "score_high": score_high,
        "rank_low": rank_low,
        "rank_high": rank_high,
        "best_probability": best_shares(ranked),
        "tied_with_best": (not_worse >= (1 - level) / 2) | (rows["rank"].to_numpy() == 1),
    }


def _lacking(what: str, drawn: "Sequence[Floats | None]", weight: float) -> Iterator[str]:
    """Why scores cannot be drawn, if something that has weight is not known to vary."""
    count = sum(values is None for values in drawn)
    if weight > 0 and count:
        yield f"scores and ranks have no interval: {count} of {len(drawn)} configurations have none of {what}"


def _covers(one: "Configuration", energy: "Floats | None", quality: "Floats | None") -> str | None:
    """Over what the intervals of a configuration were drawn, in words."""
    parts = []
    if energy is not None:
        whose = "" if one.source is one.own else " of its dense parent"
        parts.append(f"energy: {_counted(one.source)}{whose}")
    if quality is not None:
        examples = "" if one.examples is None else f", {one.examples} test examples"
        parts.append(f"quality: {_seeds(one.own)}{examples}")
    return "; ".join(parts) or None


def _counted(source: "Measured") -> str:
    fewest, most = min(source.repeats), max(source.repeats)
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{_seeds(source)}, {each} repeat{'s' if most > 1 else ''} each"


def _seeds(measured: "Measured") -> str:
    return f"{len(measured.seeds)} seeds" if measured.several_seeds else "one seed"


def _why_none(one: "Configuration", energy: "Floats | None", quality: "Floats | None") -> Iterator[str]:
    """Why a configuration has no interval of its energy, or of its quality."""
    if energy is None:
        whose = "its energy" if one.source is one.own else "the energy of its dense parent"
        yield f"{whose} was measured once, under one seed: how far it varies is not known"
    if quality is None:
        yield "its quality is of one seed, and the number of test examples is not recorded"

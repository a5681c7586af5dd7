"""The ranking against an independent computation in plain Python, exact in fractions, on random result sets."""

import tempfile
from collections import defaultdict
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import left_out, ranking
from tests.analysis.builders import Lab

METRICS = {"root_cause": ["accuracy", "macro_f1"], "response": ["bleu"]}

energies = st.one_of(st.none(), st.sampled_from([1.0, 2.0, 2.5]), st.floats(0.125, 50, width=32))
values = st.one_of(st.sampled_from([0.0, 0.25, 1.0]), st.floats(0, 1, width=32), st.just(None))


@st.composite
def trials(draw):
    """Trials with unique (precision, pruning, seed)."""
    names = st.tuples(
        st.sampled_from(["fp32", "bf16", "nf4"]),
        st.sampled_from([("none", "none"), ("m", "simulated"), ("h", "physical")]),
        st.sampled_from([0, 1]),
    )
    return [
        {
            "precision": precision,
            "pruning": pruning,
            "realisation": realisation,
            "seed": seed,
            "energy": draw(energies),
            "quality": {task: {name: draw(values) for name in metrics} for task, metrics in METRICS.items()},
        }
        for precision, (pruning, realisation), seed in draw(st.lists(names, min_size=1, max_size=8, unique=True))
    ]


def expected(trials: list[dict], tuning: dict[int, float | None], weight: Fraction, requests: int) -> dict:
    """Score, rank and E by (precision, pruning), with arithmetic that does not round."""
    dense, kept = defaultdict(list), defaultdict(list)
    for trial in trials:
        metrics = [list(task.values()) for task in trial["quality"].values()]
        if trial["energy"] is None:
            continue
        energy = Fraction(trial["energy"])
        if trial["pruning"] == "none":
            dense[trial["precision"]].append(energy)
        if tuning[trial["seed"]] is None or any(value is None for task in metrics for value in task):
            continue
        rho = mean([mean([Fraction(value) for value in task]) for task in metrics])
        kept[trial["precision"], trial["pruning"]].append((energy, Fraction(tuning[trial["seed"]]), rho))
    joules, quality = {}, {}
    for (precision, pruning), seeds in kept.items():
        borrowed = pruning == "m" and precision in dense
        own = dense[precision] if borrowed else [energy for energy, _, _ in seeds]
        joules[precision, pruning] = mean(own) + mean([spent for _, spent, _ in seeds]) / requests
        quality[precision, pruning] = mean([rho for _, _, rho in seeds])
    if not joules:
        return {}
    low, high = min(joules.values()), max(joules.values())
    apart = high - low > high / 10**9
    score = {
        name: weight * ((high - energy) / (high - low) if apart else 1) + (1 - weight) * quality[name]
        for name, energy in joules.items()
    }
    return {name: (float(joules[name]), float(score[name])) for name in joules}


def mean(numbers: list[Fraction]) -> Fraction:
    return sum(numbers, Fraction(0)) / len(numbers)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    trials=trials(),
    tuning=st.fixed_dictionaries(
        {0: st.floats(1, 1e4, width=32), 1: st.one_of(st.none(), st.floats(1, 1e4, width=32))}
    ),
    weight=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    requests=st.sampled_from([1, 1000, 10_000_000]),
)
def test_ranking_agrees_with_plain_python(trials, tuning, weight, requests):
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        for seed, energy_j in tuning.items():
            lab.finetune(f"ft{seed}", seed=seed, energy_j=energy_j)
        for index, trial in enumerate(trials):
            lab.inference(f"i{index}", needs=f"ft{trial['seed']}", **trial)
        results = lab.results()
        shown, others = pl.collect_all([ranking(results, weight, requests), left_out(results)])
    rows = shown.to_dicts()
    plain = expected(trials, tuning, Fraction(weight), requests)
    assert {(row["precision"], row["pruning"]) for row in rows} == set(plain)
    for row in rows:
        energy, score = plain[row["precision"], row["pruning"]]
        assert abs(row["energy_j_per_request"] - energy) <= 1e-9 * energy
        assert abs(row["score"] - score) <= 1e-6
        better = sum(other > score + 1e-9 for _, other in plain.values())
        as_good = sum(abs(other - score) <= 1e-9 for _, other in plain.values())
        assert better < row["rank"] <= better + as_good
    assert all(first["score"] >= second["score"] - 1e-12 for first, second in pairwise(rows))
    ranked_stages = sum(len([name for name in row["stage_ids"] if name.startswith("i")]) for row in rows)
    assert ranked_stages + others.height == len(trials)

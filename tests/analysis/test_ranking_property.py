"""The ranking against an independent computation in plain Python, exact in fractions, on 1,000 random result sets."""

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from analysis.load import Results
from analysis.metrics import METRICS
from analysis.ranking import left_out, ranking
from energyaware.rows import Row
from tests.analysis.frames import finetuning, grades, inference, results_of, window
from tests.analysis.plain_ranking import Trial, Tuning, plain_ranking

TASKS = {"root_cause": ["accuracy", "macro_f1"], "response": ["bleu"], "team": ["accuracy"]}

EXAMPLES = math.ceil(1000 / len(METRICS))

joules = st.one_of(st.sampled_from([1.0, 2.0, 2.5]), st.floats(0.125, 50, width=32))
grade = st.one_of(st.sampled_from([0.0, 0.25, 1.0]), st.floats(0, 1, width=32))
factor = st.sampled_from([0.25, 360.0, 720.0])
seconds = st.sampled_from([1.0, 2.5, 20.0])


@st.composite
def result_sets(draw) -> tuple[list[Trial], dict[int, Tuning]]:
    """Trials with unique precision, pruning, seed and fine-tuning, all of the same tasks; half the sets have faults."""
    faulty = draw(st.booleans())

    def mostly(wanted: st.SearchStrategy, *faults: Any) -> Any:
        return draw(st.sampled_from(faults) if faulty and draw(st.integers(1, 12)) == 7 else wanted)

    def windows(phase: str) -> list:
        repeats = draw(st.lists(st.sampled_from([8, 20]), min_size=1, max_size=2)) if mostly(st.just(1), 0) else []
        return [(phase, requests, (draw(seconds), mostly(seconds, None))) for requests in repeats]

    def tuning() -> Tuning:
        return Tuning(mostly(st.floats(1, 1e4, width=32), None), mostly(factor, None, 0.0), mostly(factor, None, 0.0))

    name = st.tuples(
        st.sampled_from(["bf16", "nf4"]),
        st.sampled_from([("none", False), ("m", True), ("h", False)]),
        st.sampled_from([0, 1, 2]),
        st.booleans(),
    )
    size = draw(st.sampled_from([1, 2, 4, 6, 8, 10]))
    names = draw(st.lists(name, min_size=size, max_size=size, unique=True))
    tasks = draw(st.lists(st.sampled_from(sorted(TASKS)), min_size=1, unique=True))
    return [
        Trial(
            stage_id=f"i{index}",
            precision=precision,
            pruning=pruning,
            simulated=simulated,
            seed=seed,
            tuned=tuned,
            energy_j=mostly(joules, None, 0.0, -1.0),
            prompt_tokens=mostly(st.sampled_from([400, 500]), None),
            new_tokens=mostly(st.sampled_from([0, 140]), None),
            generates=(generates := draw(st.booleans())),
            carbon_g_per_kwh=mostly(factor, None, 0.0),
            price_per_kwh=mostly(factor, None, 0.0),
            windows=(*windows("prefill"), *(windows("decode") if generates else [])),
            quality={task: {metric: mostly(grade, None, 1.5) for metric in TASKS[task]} for task in tasks},
        )
        for index, (precision, (pruning, simulated), seed, tuned) in enumerate(names)
    ], {seed: tuning() for seed in (0, 1, 2)}


def in_memory(trials: list[Trial], tunings: dict[int, Tuning]) -> Results:
    stages = [finetuning(f"ft{seed}", seed=seed, **vars(tuning), **PRICED) for seed, tuning in tunings.items()]
    stages += [stage_of(trial) for trial in trials]
    quality = [row for trial in trials for row in grades(trial.stage_id, trial.quality)]
    return results_of(stages=stages, quality=quality, energy=[row for trial in trials for row in windows_of(trial)])


PRICED = {"pue": 1.0, "currency": "EUR"}


def stage_of(trial: Trial) -> Row:
    return inference(
        trial.stage_id,
        trial.energy_j,
        needs=f"ft{trial.seed}" if trial.tuned else None,
        seed=trial.seed,
        precision=trial.precision,
        pruning=trial.pruning,
        pruning_applied=None if trial.pruning == "none" else "after",
        realisation="simulated" if trial.simulated else "none" if trial.pruning == "none" else "physical",
        prompt_tokens=trial.prompt_tokens,
        new_tokens=trial.new_tokens if trial.generates else None,
        decode_requests=10 if trial.generates else None,
        carbon_g_per_kwh=trial.carbon_g_per_kwh,
        price_per_kwh=trial.price_per_kwh,
        tasks=sorted(trial.quality),
        **PRICED,
    )


def windows_of(trial: Trial) -> list[Row]:
    numbered = {name: 0 for name, _, _ in trial.windows}
    rows = []
    for name, requests, durations in trial.windows:
        numbered[name] += 1
        rows += [
            window(
                *(trial.stage_id, name, 1.0),
                repeat=numbered[name],
                requests=requests,
                node=f"n{node}",
                component=component,
                duration_s=duration_s,
            )
            for node, duration_s in enumerate(durations)
            for component in ("cpu", "gpu")
        ]
    return rows


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    result_set=result_sets(),
    weight=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    requests=st.sampled_from([1, 1000, 10_000_000]),
    phi=st.sampled_from(["minmax", "ratio"]),
)
def test_ranking_agrees_with_plain_python(result_set, metric, weight, requests, phi):
    trials, tunings = result_set
    results = in_memory(trials, tunings)
    rows = ranking(results, weight, requests, phi, metric=metric).collect().to_dicts()
    plain = plain_ranking(trials, tunings, metric, Fraction(weight), requests, phi)
    event(f"{len(plain)} configurations")
    event(f"borrowed: {any(row['energy_from'] == 'dense parent' for row in rows)}")
    assert {name_of(row) for row in rows} == set(plain)
    for row in rows:
        energy, score = map(float, plain[name_of(row)])
        assert abs(row["ranked_by"] - energy) <= 1e-9 * energy
        assert abs(row["score"] - score) <= 1e-6
        better = sum(other > score + 1e-9 for _, other in plain.values())
        as_good = sum(abs(other - score) <= 1e-9 for _, other in plain.values())
        assert better < row["rank"] <= better + as_good
    assert all(first["score"] >= second["score"] - 1e-12 for first, second in pairwise(rows))
    assert len({row["configuration"] for row in rows}) == len(rows)
    ranked_stages = sum(len([name for name in row["stage_ids"] if name.startswith("i")]) for row in rows)
    assert ranked_stages + left_out(results, metric=metric).collect().height == len(trials)


def name_of(row: Row) -> tuple[str, str]:
    return row["precision"], row["pruning"] + (" tuned" if row["finetune_method"] == "lora" else "")

"""Results to draw figures of: a sweep that has something for each, two configurations, and many."""

from datetime import UTC, datetime, timedelta
from typing import Any

from analysis.load import Results
from energyaware.rows import Row
from tests.analysis.frames import finetuning, grades, inference, results_of, window

START = datetime(2026, 1, 1, tzinfo=UTC)
PRUNED: Row = {"pruning": "neurons-50%", "pruning_applied": "after", "realisation": "physical"}
SIMULATED: Row = {"pruning": "magnitude-2:4", "pruning_applied": "after", "realisation": "simulated"}


def a_sweep() -> Results:
    """Three precisions, dense and pruned, two seeds: something for every figure."""
    stages, quality, energy, epochs = [], [], [], []
    for size, (precision, joules) in enumerate({"nf4": 0.5, "bf16": 1.0, "fp32": 2.0}.items()):
        for seed in (0, 1):
            tuning = f"ft-{precision}-{seed}"
            stages.append(finetuning(tuning, 100.0 * joules, precision=precision, seed=seed, duration_s=60.0))
            epochs += [
                epoch(tuning, number, 50.0 * joules, 2.0 / number - 0.01 * size - 0.001 * seed) for number in (1, 2)
            ]
            energy += [
                window(
                    tuning,
                    "train",
                    50.0,
                    epoch=number,
                    repeat=None,
                    power_w=5.0,
                    kept=True,
                    started_at=at(20 * number),
                )
                for number in (1, 2)
            ]
            for change, more in enumerate([{}, PRUNED, SIMULATED]):
                name = f"{precision}-{change}-{seed}"
                serving = joules * (0.6 if more is PRUNED else 1.0)
                settings: Row = {"precision": precision, "weight_bytes": 10**size, "carbon_g_per_kwh": 360.0, **more}
                stages.append(inference(name, serving, needs=tuning, seed=seed, prompt_lengths='{"16": 3}', **settings))
                quality += grades(name, {"root_cause": {"accuracy": 0.7 + 0.05 * size - 0.1 * change + 0.01 * seed}})
                energy += [
                    window(name, part, 5.0 * serving + 0.1 * repeat, repeat=repeat, kept=True)
                    for part in ("prefill", "decode")
                    for repeat in (1, 2)
                ]
    return results_of(stages=stages, quality=quality, energy=energy, epochs=epochs)


def epoch(stage_id: str, number: int, energy_j: float | None, loss: float | None, **more: Any) -> Row:
    """A row of the epochs table."""
    row = {"stage_id": stage_id, "attempt": 1, "epoch": number, "energy_j": energy_j, "validation_loss": loss}
    return row | {"loss": loss, "measured": True, "kept": True} | more


def at(seconds: float) -> datetime:
    """So long after the first window."""
    return START + timedelta(seconds=seconds)


def of_two(**joules: float | None) -> Results:
    """Two fine-tuned configurations of these joules per request, of which the second is the better one."""
    stages = [
        finetuning("ft", 100.0),
        *(inference(name, each, needs="ft", precision=name) for name, each in joules.items()),
    ]
    quality = [
        row for place, name in enumerate(joules) for row in grades(name, {"root_cause": {"accuracy": 0.5 + place / 10}})
    ]
    return results_of(stages=stages, quality=quality)


def many(count: int) -> Results:
    """As many configurations as that, dense and pruned, of a few fine-tunings."""
    stages, quality, energy, epochs = [], [], [], []
    for tuned in range(0, count, 10):
        tuning, precision = f"ft{tuned}", f"p{tuned // 10 % 8}"
        stages.append(
            finetuning(tuning, 100.0 + tuned, precision=precision, model=f"m{tuned}", duration_s=10.0 + tuned)
        )
        epochs += [
            {
                "stage_id": tuning,
                "attempt": 1,
                "epoch": epoch,
                "energy_j": 50.0,
                "validation_loss": 2.0 / epoch,
                "kept": True,
            }
            for epoch in (1, 2, 3)
        ]
        energy += [
            window(tuning, "train", 50.0, started_at=START, epoch=epoch, node=f"n{tuned}") for epoch in (1, 2, 3)
        ]
        for number in range(tuned, min(tuned + 10, count)):
            pruned = {"pruning": f"kind{number % 10}-50%", "realisation": "physical"} if number % 10 else {}
            joules, good = 1 + (number * 7919 % 1000) / 500, 0.3 + (number * 104729 % 1000) / 2000
            of = {
                "precision": precision,
                "model": f"m{tuned}",
                "carbon_g_per_kwh": 300.0,
                "prompt_lengths": '{"16": 1}',
            }
            stages.append(inference(f"s{number}", joules, needs=tuning, **of, **pruned))
            quality += grades(f"s{number}", {"root_cause": {"accuracy": good}})
            energy += [
                window(f"s{number}", part, 5.0 * joules + repeat, repeat=repeat)
                for part in ("prefill", "decode")
                for repeat in (1, 2)
            ]
    return results_of(stages=stages, quality=quality, energy=energy, epochs=epochs)

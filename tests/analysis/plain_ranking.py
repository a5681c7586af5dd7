"""The ranking once more, in plain Python and fractions that do not round, to hold the one in Polars against."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

JOULES_OF_KWH = 3_600_000


@dataclass(frozen=True)
class Trial:
    """One inference of one seed, with the numbers that its rows have; None is a missing one.

    `windows` are (name, requests, seconds by node) of each prefill and decode window.
    """

    stage_id: str
    precision: str
    pruning: str
    simulated: bool
    seed: int
    tuned: bool
    energy_j: float | None
    prompt_tokens: int | None
    new_tokens: int | None
    generates: bool
    carbon_g_per_kwh: float | None
    price_per_kwh: float | None
    windows: tuple[tuple[str, int, tuple[float | None, ...]], ...]
    quality: dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Tuning:
    """The fine-tuning of one seed."""

    energy_j: float | None
    carbon_g_per_kwh: float | None
    price_per_kwh: float | None


Parts = dict[str, Fraction | None]

WITHOUT_FINETUNING = {"finetune_j": Fraction(0), "finetune_g": Fraction(0), "finetune_price": Fraction(0)}

NEEDS = {
    "request": [],
    "token": ["tokens"],
    "correct": ["correct"],
    "edp": ["seconds"],
    "carbon": ["inference_g", "finetune_g"],
    "cost": ["inference_price", "finetune_price"],
}


def plain_ranking(
    trials: list[Trial], tunings: dict[int, Tuning], metric: str, weight: Fraction, requests: int, phi: str
) -> dict[tuple[str, str], tuple[Fraction, Fraction]]:
    """The metric and the score of each configuration that can be ranked, by precision and pruning."""
    expected = {(task, name) for trial in trials for task, of in trial.quality.items() for name in of}
    parts = {trial.stage_id: _parts(trial, tunings) for trial in trials}
    of_inference = ["inference_j", *(need for need in NEEDS[metric] if need != "correct" and "finetune" not in need)]
    dense = defaultdict(list)
    ranked = defaultdict(list)
    for trial in trials:
        mine = parts[trial.stage_id]
        sound = all(_positive(mine[need]) for need in of_inference)
        if sound and trial.pruning == "none":
            dense[trial.precision, trial.tuned].append(mine)
        needed = [name for name in ["finetune_j", *NEEDS[metric]] if "finetune" in name]
        tuned = not trial.tuned or all(_positive(mine[need]) for need in needed)
        if sound and tuned and _graded(trial, expected) and (metric != "correct" or mine["correct"] is not None):
            ranked[trial.precision, trial.pruning, trial.tuned].append((trial, mine))
    energies, qualities = {}, {}
    for (precision, pruning, tuned), members in ranked.items():
        own = [mine for _, mine in members]
        borrowed = members[0][0].simulated and (precision, tuned) in dense
        means = _means(own) | {
            name: value
            for name, value in _means(dense[precision, tuned] if borrowed else own).items()
            if name in {"inference_j", "inference_g", "inference_price", "tokens", "seconds"}
        }
        if metric == "correct" and means["correct"] == 0:
            continue
        name = (precision, pruning + (" tuned" if tuned else ""))
        energies[name] = _value(metric, means, requests)
        qualities[name] = _mean(mine["rho"] for mine in own)
    return {
        name: (energy, weight * _phi(phi, energy, energies.values()) + (1 - weight) * qualities[name])
        for name, energy in energies.items()
    }


def _parts(trial: Trial, tunings: dict[int, Tuning]) -> Parts:
    tuning = tunings[trial.seed]
    accuracies = [of["accuracy"] for of in trial.quality.values() if of.get("accuracy") is not None]
    parts: Parts = {
        "inference_j": _exact(trial.energy_j),
        "inference_g": _times(trial.energy_j, trial.carbon_g_per_kwh),
        "inference_price": _times(trial.energy_j, trial.price_per_kwh),
        "tokens": _tokens(trial),
        "seconds": _seconds(trial),
        "correct": sum(map(Fraction, accuracies)) if accuracies else None,
        "rho": _rho(trial),
    }
    if not trial.tuned:
        return parts | WITHOUT_FINETUNING
    return parts | {
        "finetune_j": _exact(tuning.energy_j),
        "finetune_g": _times(tuning.energy_j, tuning.carbon_g_per_kwh),
        "finetune_price": _times(tuning.energy_j, tuning.price_per_kwh),
    }


def _value(metric: str, means: Parts, requests: int) -> Fraction:
    unit = {"carbon": "g", "cost": "price"}.get(metric, "j")
    spread = means[f"inference_{unit}"] + means[f"finetune_{unit}"] / requests
    match metric:
        case "token":
            return spread / means["tokens"]
        case "correct":
            return spread / means["correct"]
        case "edp":
            return spread * means["seconds"]
    return spread


def _phi(phi: str, energy: Fraction, energies: Iterable[Fraction]) -> Fraction:
    least, greatest = min(energies), max(energies)
    if phi == "ratio":
        return least / energy
    return (greatest - energy) / (greatest - least) if greatest - least > greatest / 10**9 else Fraction(1)


def _graded(trial: Trial, expected: set[tuple[str, str]]) -> bool:
    """Every metric that any trial has of a task is there, between 0 and 1."""
    wanted = [(task, name) for task, name in expected if task in trial.quality]
    values = [trial.quality[task].get(name) for task, name in wanted]
    return all(value is not None and 0 <= value <= 1 for value in values)


def _rho(trial: Trial) -> Fraction | None:
    tasks = [list(of.values()) for of in trial.quality.values()]
    if any(value is None for of in tasks for value in of):
        return None
    return _mean(_mean(map(Fraction, of)) for of in tasks)


def _tokens(trial: Trial) -> Fraction | None:
    counts = [trial.prompt_tokens, *([trial.new_tokens] if trial.generates else [])]
    return None if None in counts else Fraction(sum(counts), 10)


def _seconds(trial: Trial) -> Fraction | None:
    total = Fraction(0)
    for phase in ("prefill", *(["decode"] if trial.generates else [])):
        windows = [(requests, seconds) for name, requests, seconds in trial.windows if name == phase]
        if not windows or any(value is None for _, seconds in windows for value in seconds):
            return None
        total += sum(Fraction(max(seconds)) for _, seconds in windows) / sum(requests for requests, _ in windows)
    return total


def _means(parts: list[Parts]) -> Parts:
    return {name: _mean([one[name] for one in parts]) for name in parts[0]}


def _mean(values: Iterable[Fraction | None]) -> Fraction | None:
    values = list(values)
    return None if None in values else sum(values, Fraction(0)) / len(values)


def _times(energy_j: float | None, per_kwh: float | None) -> Fraction | None:
    return None if energy_j is None or per_kwh is None else Fraction(energy_j) * Fraction(per_kwh) / JOULES_OF_KWH


def _exact(value: float | None) -> Fraction | None:
    return None if value is None else Fraction(value)


def _positive(value: Fraction | None) -> bool:
    return value is not None and value > 0

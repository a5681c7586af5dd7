"""Measurements of configurations, written down seed by seed, and how sure a ranking of them is."""

from collections.abc import Sequence
from statistics import fmean

from analysis.load import Results
from analysis.ranking import ranking
from analysis.uncertainty import uncertainty
from energyaware.rows import Row
from tests.analysis.frames import grades, inference, results_of, window


class Bench:
    """Measurements of configurations, written down one seed at a time."""

    def __init__(self) -> None:
        self.stages: list[Row] = []
        self.quality: list[Row] = []
        self.energy: list[Row] = []

    def measure(
        self, name: str, repeats: Sequence[float], rho: float = 0.8, *, examples: int | None = 100, **more
    ) -> "Bench":
        """One seed: joules per request of each repeat, and its accuracy. It only reads prompts."""
        seed = more.get("seed", 0)
        stage_id = f"{name}-{more.get('pruning', '')}-{seed}"
        options = {"precision": name, "decode_requests": None, "new_tokens": None} | more
        self.stages.append(inference(stage_id, fmean(repeats), **options))
        self.quality += grades(stage_id, {"root_cause": {"accuracy": rho}}, examples)
        self.energy += [
            window(stage_id, "prefill", 10 * energy_j, repeat=number) for number, energy_j in enumerate(repeats, 1)
        ]
        return self

    def results(self) -> Results:
        return results_of(stages=self.stages, quality=self.quality, energy=self.energy)


def sure(bench: Bench, **options) -> dict[str, Row]:
    """Rows of the uncertainty by precision."""
    results = bench.results()
    of_ranking = {name: option for name, option in options.items() if name not in {"draws", "level", "seed"}}
    names = ranking(results, **of_ranking).collect().select("configuration", "precision", "pruning")
    rows = names.join(uncertainty(results, **options), on="configuration").to_dicts()
    return {row["precision"] + ("" if row["pruning"] == "none" else " pruned"): row for row in rows}

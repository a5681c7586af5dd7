"""Early stopping of fine-tunings that others are ahead of, by asynchronous successive halving.

Li et al. (2020), "A System for Massively Parallel Hyperparameter Tuning", MLSys, in the variant that stops: at certain
epochs, the rungs, each fine-tuning is held against all that have come to the rung before it, and goes on at once if it
is among the best 1/eta of them. The first ones are therefore never stopped.

The score is that of the ranking, from what is known in the middle of a fine-tuning:

    score = w * phi + (1 - w) * rho,  phi = E_min / E,  rho = exp(-loss)

E: joules up to the rung; E_min: the least of all that have come to it. loss: per target token of the validation split,
in nats; its exponential is the geometric mean of the probabilities that the model gives to the right tokens.
"""

import math
from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """A fine-tuning is to be stopped.

    Attributes:
        epoch: the rung.
        place: of its score, from 1.
        of: how many have come to the rung.
    """

    epoch: int
    place: int
    of: int

    def __str__(self) -> str:
        return f"after epoch {self.epoch} its score is number {self.place} of {self.of}"


class Rungs:
    """What fine-tunings have come to, and which of them is not worth going on with.

    Args:
        eta: of those that come to a rung, one in so many goes on. At least 2.
        from_epoch: the first rung; the others are its products with powers of eta.
        weight: w of the score.
    """

    def __init__(self, eta: int, from_epoch: int, weight: float) -> None:
        self._eta, self._from_epoch, self._weight = eta, from_epoch, weight
        self._reached: dict[tuple[str, int], dict[str, tuple[float, float]]] = defaultdict(dict)

    def is_rung(self, epoch: int) -> bool:
        """Whether fine-tunings are judged after this epoch."""
        rung = self._from_epoch
        while rung < epoch:
            rung *= self._eta
        return rung == epoch

    def judge(self, group: str, name: str, epoch: int, loss: float, energy_j: float | None) -> Verdict | None:
        """Take note of how far a fine-tuning has come; None: it goes on.

        One whose joules or loss are not known is not judged, and nobody is held against it.

        Args:
            group: what it is compared with.
            name: its own.
            epoch: that it has ended.
            loss: on the validation split, in nats per token.
            energy_j: joules so far; None if they are not known.
        """
        if not self.is_rung(epoch) or energy_j is None or energy_j <= 0 or not math.isfinite(loss):
            return None
        reached = self._reached[group, epoch]
        reached[name] = energy_j, math.exp(-loss)
        least_j = min(energy_j for energy_j, _ in reached.values())
        scores = {
            each: self._weight * least_j / energy_j + (1 - self._weight) * rho
            for each, (energy_j, rho) in reached.items()
        }
        place = 1 + sum(score > scores[name] for score in scores.values())
        going_on = math.ceil(len(reached) / self._eta)
        return Verdict(epoch, place, len(reached)) if len(reached) >= self._eta and place > going_on else None

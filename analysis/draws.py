"""Random draws of what could have been measured instead: a bootstrap over seeds, repeats and test examples.

A generator of random numbers belongs to each thing that is drawn, and hangs on its name alone. So neither the order of
rows nor who else is compared changes a draw, and configurations that share a measurement share its draws.
"""

from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bootstrap:
    """Draws at random, the same ones for the same `seed`; `draws` is how many."""

    draws: int
    seed: int
    _of_seeds: dict[tuple[int | None, ...], Floats] = field(default_factory=dict, init=False, repr=False)
    _of_examples: dict[int, tuple[Floats, Floats]] = field(default_factory=dict, init=False, repr=False)

    def generator(self, *name: object) -> np.random.Generator:
        """The random numbers of what has this name."""
        digest = blake2b(repr((self.seed, *name)).encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest))

    def weights(self, count: int, random: np.random.Generator) -> Floats:
        """What each of `count` measurements weighs in each draw, (count, draws): their weighted sum is the drawn mean.

        One fewer is drawn than there are, with replacement: the variance of a mean of n out of n is too small by
        (n - 1) / n, that of n - 1 out of n is right (Rao and Wu 1988, Resampling inference with complex survey data,
        Journal of the American Statistical Association 83, pages 231 to 241).

        A handful of measurements tells little of the variance itself, so draws from them alone lie too close to their
        mean. Each drawn mean is moved away from it by a factor of sqrt(nu / chi2_nu), nu = n - 1, which makes Student's
        t of a normal distribution (Student 1908, The probable error of a mean, Biometrika 6, pages 1 to 25). Weights
        add up to 1, but some may be below 0: of what cannot be negative, the drawn mean needs a floor.
        """
        if count == 1:
            return np.ones((1, self.draws))
        nu = count - 1
        picks = random.integers(0, count, (nu, self.draws)) * self.draws + np.arange(self.draws)
        drawn = np.bincount(picks.ravel(), minlength=count * self.draws).reshape(count, self.draws) / nu
        further = np.sqrt(nu / random.chisquare(nu, self.draws))
        return np.asarray(1 / count + (drawn - 1 / count) * further)

    def weights_of_seeds(self, seeds: tuple[int | None, ...]) -> Floats:
        """What each seed weighs in each draw: the same for all that was run under the same seeds."""
        if seeds not in self._of_seeds:
            self._of_seeds[seeds] = self.weights(len(seeds), self.generator("seeds", *seeds))
        return self._of_seeds[seeds]

    def over_examples(self, values: Floats) -> tuple[Floats, Floats]:
        """What test examples add up to in each draw, weighed alike for all that answered as many: many rows at once.

        Exponential weights, as of a Bayesian bootstrap (Rubin 1981, Annals of Statistics 9, pages 130 to 134).

        Args:
            values: what each example adds, (rows, examples).

        Returns:
            Weighted sums, (rows, draws); the sums of the weights.
        """
        count = values.shape[1]
        if count not in self._of_examples:
            weights = self.generator("examples", count).standard_exponential((count, self.draws))
            self._of_examples[count] = weights, weights.sum(axis=0)
        weights, total = self._of_examples[count]
        return values @ weights, total

    def of_examples(self, sums: Floats, total: Floats, weights: Floats, *name: object) -> Floats:
        """Means over other test sets, of a quality in [0, 1] of which each example's part is known.

        Whoever answered the same examples is drawn over the same ones: only where answers differ can one be ahead of
        another. Half an example of quality 0 and half a one of quality 1 of its own keep a few answers from being
        certain, such as two that only one has right. Of an accuracy alone this is the draw of `of_test_set`.

        Args:
            sums: of `over_examples`, a row per seed.
            total: likewise.
            weights: of each seed in each draw, (seeds, draws).
            name: whose half examples these are.
        """
        mean = np.clip((weights * sums).sum(axis=0) / total, 0, 1)
        wrong, right = self.generator(*name).standard_gamma(0.5, (2, self.draws))
        return np.asarray((mean * total + right) / (total + wrong + right))

    def of_test_set(self, mean: Floats, examples: int, *name: object) -> Floats:
        """Means over other test sets of as many examples, of a quality in [0, 1] that has this mean.

        The variance of a mean of n such values is at most mean * (1 - mean) / n, whatever their distribution (Bhatia
        and Davis 2000, A better bound on the variance, American Mathematical Monthly 107, pages 353 to 357); for an
        accuracy it is just that. Drawn from Beta(n mean + 1/2, n (1 - mean) + 1/2), the posterior of a proportion under
        Jeffreys' prior, which is not certain of 0 or 1 either (Brown, Cai and DasGupta 2001, Interval estimation for a
        binomial proportion, Statistical Science 16, pages 101 to 133).
        """
        return self.generator(*name).beta(examples * mean + 0.5, examples * (1 - mean) + 0.5)

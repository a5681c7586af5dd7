"""What a task is: how a record becomes a prompt and a target, and how answers are scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Record = Mapping[str, str]


@dataclass(frozen=True)
class Example:
    """One request: the model reads `prompt` and should answer `target`."""

    prompt: str
    target: str


@dataclass(frozen=True)
class Score:
    """One metric over a test set.

    Attributes:
        value: of the whole test set.
        per_example: what each example adds, in their order: their mean is `value`. Of a metric that is no mean over
            examples these are `jackknife` values. None if that cannot be told: its interval is then wider than it need
            be.
    """

    value: float
    per_example: list[float] | None = None

    @classmethod
    def mean(cls, per_example: list[float]) -> "Score":
        """Of a metric that is the mean over examples."""
        return cls(sum(per_example) / len(per_example), per_example)

    @classmethod
    def of_whole(cls, value: float, without: Sequence[float]) -> "Score":
        """Of a metric that is no mean; `without` is as for `jackknife`."""
        return cls(value, jackknife(value, without))


class Task(Protocol):
    """One kind of question about a record.

    Attributes:
        name: as in the sweep file and in the tables.
        fields: the record's fields that it reads.
        generates: True if the answer is free text, generated; False if it is one of the training split's targets,
            chosen by likelihood.
    """

    @property
    def name(self) -> str: ...
    @property
    def fields(self) -> tuple[str, ...]: ...
    @property
    def generates(self) -> bool: ...

    def example(self, record: Record) -> Example:
        """The request that this record stands for."""

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, Score]:
        """Quality metrics by name, each in [0, 1], higher is better.

        Args:
            answers: what the model answered, one per example.
            targets: what was expected, in the same order; at least one.
        """


def jackknife(whole: float, without: Sequence[float]) -> list[float]:
    """Values of single examples whose mean varies, from one test set to another, about as a metric does.

    Pseudo-values n whole - (n - 1) without (Tukey 1958, Bias and confidence in not-quite large samples, Annals of
    Mathematical Statistics 29, page 614), moved to have the metric as their mean.

    Args:
        whole: the metric over all n examples.
        without: the metric over all examples but one, for each of them; none of a single example.
    """
    if not without:
        return [whole]
    mean = sum(without) / len(without)
    return [whole + (len(without) - 1) * (mean - one) for one in without]

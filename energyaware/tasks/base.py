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

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Quality metrics by name, each in [0, 1], higher is better.

        Args:
            answers: what the model answered, one per example.
            targets: what was expected, in the same order; at least one.
        """

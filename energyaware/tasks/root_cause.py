"""Root-cause analysis: which of the known causes is behind a fault ticket."""

from collections.abc import Sequence
from dataclasses import dataclass

from energyaware.tasks.base import Example, Record


@dataclass(frozen=True)
class RootCause:
    """Classification: the answer is one of the training split's labels, chosen by likelihood."""

    name: str = "root_cause"
    fields: tuple[str, ...] = ("ticket", "root_cause")
    generates: bool = False

    def example(self, record: Record) -> Example:
        """The request that this record stands for."""
        return Example(prompt=f"Ticket: {record['ticket']}\nRoot cause:\n", target=record["root_cause"])

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Accuracy, and macro-F1 over the classes that occur in `targets`."""
        answers, targets = [a.strip() for a in answers], [t.strip() for t in targets]
        correct = sum(answer == target for answer, target in zip(answers, targets, strict=True))
        return {"accuracy": correct / len(targets), "macro_f1": macro_f1(answers, targets)}


def macro_f1(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Mean over the classes of `targets` of F1 = 2 * hits / (times answered + times expected)."""
    pairs = list(zip(answers, targets, strict=True))

    def f1(label: str) -> float:
        hits = sum(answer == target == label for answer, target in pairs)
        return 2 * hits / sum((answer == label) + (target == label) for answer, target in pairs)

    classes = sorted(set(targets))
    return sum(map(f1, classes)) / len(classes)

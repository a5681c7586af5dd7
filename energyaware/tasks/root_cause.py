"""Root-cause analysis: which of the known causes is behind a fault ticket."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from energyaware.tasks.base import Example, Record, Score


@dataclass(frozen=True)
class RootCause:
    """Classification: the answer is one of the training split's labels, chosen by likelihood."""

    name: str = "root_cause"
    fields: tuple[str, ...] = ("ticket", "root_cause")
    generates: bool = False

    def example(self, record: Record) -> Example:
        """The request that this record stands for."""
        return Example(prompt=f"Ticket: {record['ticket']}\nRoot cause:\n", target=record["root_cause"])

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, Score]:
        """Accuracy, and macro-F1 over the classes that occur in `targets`."""
        answers, targets = [a.strip() for a in answers], [t.strip() for t in targets]
        pairs = list(zip(answers, targets, strict=True))
        counts = _Counts(answers, targets)
        without = [counts.without(*pair).macro_f1() for pair in pairs] if len(pairs) > 1 else []
        return {
            "accuracy": Score.mean([float(answer == target) for answer, target in pairs]),
            "macro_f1": Score.of_whole(counts.macro_f1(), without),
        }


def macro_f1(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Mean over the classes of `targets` of F1 = 2 * hits / (times answered + times expected)."""
    return _Counts(answers, targets).macro_f1()


class _Counts:
    """How often each class was answered, expected, and hit."""

    def __init__(self, answers: Sequence[str], targets: Sequence[str]) -> None:
        self._answered, self._expected = Counter(answers), Counter(targets)
        self._hit = Counter(answer for answer, target in zip(answers, targets, strict=True) if answer == target)

    def without(self, answer: str, target: str) -> "_Counts":
        """The same without one example."""
        fewer = _Counts([], [])
        fewer._answered, fewer._expected = self._answered - Counter([answer]), self._expected - Counter([target])
        fewer._hit = self._hit - Counter([answer]) if answer == target else self._hit
        return fewer

    def macro_f1(self) -> float:
        """Over the classes that are expected."""
        classes = sorted(self._expected)
        return sum(2 * self._hit[name] / (self._answered[name] + self._expected[name]) for name in classes) / len(
            classes
        )

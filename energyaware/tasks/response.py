"""Response generation: what is wrong and what to do about it, as free text."""

from collections.abc import Sequence
from dataclasses import dataclass

from energyaware.tasks.base import Example, Record


@dataclass(frozen=True)
class Response:
    """Generation: the answer to a fault ticket, compared with the one that was given."""

    name: str = "response"
    fields: tuple[str, ...] = ("ticket", "response")
    generates: bool = True

    def example(self, record: Record) -> Example:
        """The request that this record stands for."""
        return Example(prompt=f"Ticket: {record['ticket']}\nResponse:\n", target=record["response"])

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Mean ROUGE-L F-measure, and corpus BLEU on a scale to 1."""
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu import corpus_bleu

        rouge = RougeScorer(["rougeL"], use_stemmer=False)
        overlaps = [rouge.score(t, a)["rougeL"].fmeasure for a, t in zip(answers, targets, strict=True)]
        bleu = corpus_bleu(list(answers), [list(targets)]).score / 100
        return {"rouge_l": sum(overlaps) / len(overlaps), "bleu": min(1.0, bleu)}

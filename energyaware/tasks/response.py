"""Response generation: what is wrong and what to do about it, as free text."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from energyaware.tasks.base import Example, Record, Score

if TYPE_CHECKING:
    import numpy as np


_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Kana and Chinese characters."""


@dataclass(frozen=True)
class Response:
    """Generation: the answer to a fault ticket, compared with the one that was given."""

    name: str = "response"
    fields: tuple[str, ...] = ("ticket", "response")
    generates: bool = True

    def example(self, record: Record) -> Example:
        """The request that this record stands for."""
        return Example(prompt=f"Ticket: {record['ticket']}\nResponse:\n", target=record["response"])

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, Score]:
        """Mean ROUGE-L F-measure, and corpus BLEU on a scale to 1."""
        ngrams = _ngrams(answers, targets)
        whole = ngrams.sum(axis=0)
        without = [_bleu(whole - one) for one in ngrams] if len(ngrams) > 1 else []
        return {"rouge_l": Score.mean(_overlaps(answers, targets)), "bleu": Score.of_whole(_bleu(whole), without)}


def _overlaps(answers: Sequence[str], targets: Sequence[str]) -> list[float]:
    from rouge_score.rouge_scorer import RougeScorer

    rouge = RougeScorer(["rougeL"], tokenizer=_Words())
    return [float(rouge.score(t, a)["rougeL"].fmeasure) for a, t in zip(answers, targets, strict=True)]


class _Words:
    """Words of any script in small letters. What `rouge-score` takes by itself are ASCII words, which these are too."""

    def tokenize(self, text: str) -> list[str]:
        return "".join(letter if _in_a_word(letter) else " " for letter in _parted(text.lower())).split()


def _in_a_word(letter: str) -> bool:
    """Letters, digits, and the marks that many scripts write vowels and tones with."""
    return letter.isalnum() or unicodedata.category(letter).startswith("M")


def _parted(text: str) -> str:
    """With spaces about each Chinese or Japanese character, and letters with their accents as one (Unicode's NFC)."""
    return _UNSPACED.sub(r" \g<0> ", unicodedata.normalize("NFC", text))


def _ngrams(answers: Sequence[str], targets: Sequence[str]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """What BLEU is made of, a row per example: n-grams in common, n-grams there are, both lengths."""
    import numpy as np
    from sacrebleu import BLEU

    sentence = BLEU(effective_order=True).sentence_score
    scores = [sentence(_parted(answer), [_parted(target)]) for answer, target in zip(answers, targets, strict=True)]
    return np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in scores], np.int64)


def _bleu(ngrams: "np.ndarray[Any, np.dtype[np.int64]]") -> float:
    """BLEU from 0 to 1 of sums of n-grams."""
    from sacrebleu import BLEU

    *counts, answered, expected = ngrams.tolist()
    orders = len(counts) // 2
    score: float = BLEU.compute_bleu(counts[:orders], counts[orders:], answered, expected, smooth_method="exp").score
    return min(1.0, score / 100)

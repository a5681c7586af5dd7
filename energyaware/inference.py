"""One measured inference: quality on the test split, then joules of prefill and decode per request.

A request is one ticket, handled in every task of the configuration. Quality comes from the `evaluate` window; energy
from `prefill` and `decode`, which loop over the same batch until they are long enough to be measured. Decoding there
always runs to `max_new_tokens`, so that configurations are compared over equal work.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from energyaware.assemble import Materials, model_to_serve, plain
from energyaware.audit import audit
from energyaware.batches import pad_left, tokenise_prompts
from energyaware.checkpoints import UNKEPT, Keeping
from energyaware.errors import Diverged, StageError
from energyaware.measuring import Phase, gather, measure
from energyaware.models import context_length, load_tokenizer
from energyaware.points import reached
from energyaware.precision import PRECISIONS
from energyaware.realise import realise
from energyaware.rows import Row
from energyaware.serving import choose, generate, likelihoods, prefill
from energyaware.stage import Outcome
from energyaware.tasks import TASKS
from energyaware.tasks.data import load_splits

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.energy.base import Meter
    from energyaware.spec import InferenceSpec
    from energyaware.stage import Place
    from energyaware.store import Store
    from energyaware.tasks.base import Example, Task

BIN_TOKENS: Final = 16
"""Width of the bins in which lengths of prompts are counted."""


def infer(
    stage_id: str, spec: InferenceSpec, place: Place, meter: Meter, store: Store, keeping: Keeping = UNKEPT
) -> Outcome:
    """Evaluate and measure one configuration.

    Raises:
        AuditError: the precision or the mask is not what the settings say.
        Diverged: the model's logits are no numbers.
        Interrupted: the run is being stopped.
        StageError: a quality metric could not be computed.
    """
    import torch

    tokenizer = load_tokenizer(spec.model)
    splits = load_splits(spec.data, spec.tasks)
    artifact = store.artifact(spec.finetuned) if spec.finetuned else None
    materials = Materials(tokenizer, [TASKS[name].example(record) for name in spec.tasks for record in splits.train])
    model, pruned = model_to_serve(spec, place, meter, artifact, store.scratch_folder(stage_id), materials)
    model.eval()
    keeping.check()
    precision = PRECISIONS[spec.precision]
    audited = audit(plain(model), precision)
    columns: Row = {
        "model_family": plain(model).config.model_type,
        **pruned.columns(spec.pruning),
        **audited.columns,
        "sparsity_achieved": pruned.verify(plain(model)),
        **realise(plain(model), pruned.masks, spec.pruning).columns,
    }
    test = splits.test[: spec.test_examples]
    desks = [_Desk(TASKS[name], splits.train, test, model, tokenizer, spec) for name in spec.tasks]
    with torch.inference_mode(), precision.arithmetic():
        with meter.window("evaluate"):
            quality = [row for desk in desks for row in desk.evaluate(place)]
        columns |= _measure(desks, place, meter, spec, keeping)
    if place.rank == 0:
        columns["prompt_lengths"] = _histogram(length for desk in desks for length in desk.prompt_lengths())
        reached("measured")
    return Outcome(columns, quality=quality)


def _histogram(lengths: Iterable[int]) -> str:
    """JSON: how many there are of each length, rounded up to a multiple of `BIN_TOKENS`."""
    counts = Counter(BIN_TOKENS * math.ceil(length / BIN_TOKENS) for length in lengths)
    return json.dumps({str(length): counts[length] for length in sorted(counts)})


class _Desk:
    """Handles requests of one task with one model."""

    def __init__(
        self, task: Task, train: Sequence[Any], test: Sequence[Any], model: Any, tokenizer: Any, spec: InferenceSpec
    ) -> None:
        self.task, self.max_new_tokens = task, spec.max_new_tokens
        self._model, self._tokenizer, self._spec = model, tokenizer, spec
        self._broken: Tensor | bool = False
        self._test = [task.example(record) for record in test]
        self._labels = [] if task.generates else sorted({task.example(record).target for record in train})
        self._label_ids = [
            [*ids, tokenizer.eos_token_id]
            for ids in (tokenizer(self._labels, add_special_tokens=False)["input_ids"] if self._labels else [])
        ]
        answer = spec.max_new_tokens if task.generates else max(map(len, self._label_ids))
        context = context_length(model, tokenizer) - (0 if model.config.is_encoder_decoder else answer)
        self._prompt_length = min(spec.sequence_length, context)
        if self._prompt_length < 1:
            raise StageError(
                f"{task.name}: answers of {answer} tokens leave no room for a prompt in the model's context"
            )

    def evaluate(self, place: Place) -> list[Row]:
        """Rows of the task's quality on the test split, computed over all ranks."""
        mine = list(range(len(self._test)))[place.rank :: place.world_size]
        answers = dict(zip(mine, self._answers([self._test[index] for index in mine]), strict=True))
        parts = gather((answers, bool(self._broken)))
        if any(broken for _, broken in parts):  # of which the largest would be the first
            raise Diverged(f"{self.task.name}: the model's logits are no numbers")
        merged = {index: answer for part, _ in parts for index, answer in part.items()}
        given, wanted = [merged[index] for index in sorted(merged)], [item.target for item in self._test]
        scores = self.task.score(given, wanted)
        if bad := [name for name, score in scores.items() if not math.isfinite(score.value)]:
            raise StageError(f"{self.task.name}: {', '.join(bad)} is not a number")
        return [
            {"task": self.task.name, "metric": metric, "value": score.value, "examples": len(self._test)}
            | {"per_example": score.per_example}
            for metric, score in scores.items()
        ]

    def _answers(self, examples: Sequence[Example]) -> list[str]:
        """Answers in the order of the examples, worked on in order of length to pad little."""
        prompts = tokenise_prompts([example.prompt for example in examples], self._tokenizer, self._prompt_length)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: dict[int, str] = {}
        for start in range(0, len(order), self._spec.batch_size):
            indices = order[start : start + self._spec.batch_size]
            ids, attention = self._padded([prompts[index] for index in indices])
            answers |= zip(indices, self._answer(ids, attention), strict=True)
        return [answers[index] for index in range(len(examples))]

    def _answer(self, ids: Tensor, attention: Tensor) -> list[str]:
        read = prefill(self._model, ids, attention)
        if not self.task.generates:
            scores = likelihoods(self._model, read, self._label_ids)
            self._look(scores)
            return [self._labels[index] for index in scores.argmax(-1).tolist()]
        stop = self._tokenizer.eos_token_id
        rows = generate(self._model, read, self._spec.max_new_tokens, stop, self._look).tolist()
        ended = [row[: row.index(stop)] if stop in row else row for row in rows]
        return [text.strip() for text in self._tokenizer.batch_decode(ended, skip_special_tokens=True)]

    def _look(self, logits: Tensor) -> None:
        """Note on the device whether any is no number, or too large for one: what is left out of an answer is -inf.

        Asking at once would make the device wait at every token.
        """
        self._broken = (logits.isnan() | logits.isposinf()).any() | self._broken

    def prompt_lengths(self) -> list[int]:
        """Tokens of each prompt of the test split, as the model reads it."""
        prompts = tokenise_prompts([item.prompt for item in self._test], self._tokenizer, self._prompt_length)
        return list(map(len, prompts))

    def batch(self, place: Place) -> tuple[Tensor, Tensor]:
        """The batch of requests that this rank is measured on: ids and attention, (batch_size, length)."""
        mine = self._test[place.rank :: place.world_size] or self._test
        wanted = [mine[index % len(mine)].prompt for index in range(self._spec.batch_size)]
        return self._padded(tokenise_prompts(wanted, self._tokenizer, self._prompt_length))

    def read(self, ids: Tensor, attention: Tensor) -> None:
        """The part of a request before its first new token: prefill, and for labels the whole answer."""
        read = prefill(self._model, ids, attention)
        if not self.task.generates:
            choose(self._model, read, self._label_ids)

    def decoding(self, ids: Tensor, attention: Tensor) -> Callable[[], None]:
        """A function that decodes `max_new_tokens` for the batch, any number of times."""
        read = prefill(self._model, ids, attention)

        def decode() -> None:
            generate(self._model, read, self._spec.max_new_tokens, None)

        return decode

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, attention = pad_left(prompts, self._tokenizer.pad_token_id)
        return ids.to(self._model.device), attention.to(self._model.device)


def _measure(desks: list[_Desk], place: Place, meter: Meter, spec: InferenceSpec, keeping: Keeping) -> Row:
    """Joules of prefill and decode are in windows of their own; columns say how many requests those handled."""
    batches = [desk.batch(place) for desk in desks]
    requests = len(batches[0][0]) * place.world_size

    def read() -> None:
        for desk, (ids, attention) in zip(desks, batches, strict=True):
            desk.read(ids, attention)

    phases: dict[Phase, Callable[[], None]] = {"prefill": read}
    decoders = [desk.decoding(*batch) for desk, batch in zip(desks, batches, strict=True) if desk.task.generates]
    if decoders:

        def decode() -> None:
            for decoder in decoders:
                decoder()

        phases["decode"] = decode
    passes = measure(
        phases,
        requests,
        meter,
        min_window_s=spec.min_window_s,
        repeats=spec.repeats,
        seed=spec.seed,
        check=keeping.check,
    )
    tokens: int = sum(gather(sum(int(attention.sum()) for _, attention in batches)))
    columns: Row = {"prefill_requests": passes["prefill"] * requests, "prompt_tokens": passes["prefill"] * tokens}
    if decoders:
        columns["decode_requests"] = passes["decode"] * requests
        columns["new_tokens"] = columns["decode_requests"] * len(decoders) * spec.max_new_tokens
    return columns

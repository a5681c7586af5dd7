"""One fine-tuning: DeepSpeed data parallel training of an adapter or of all weights, with joules per epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.assemble import model_to_train
from energyaware.batches import (
    Tokens,
    epoch_batches,
    pad_right,
    share_of_rank,
    steps_per_epoch,
    tokenise,
)
from energyaware.errors import Diverged
from energyaware.lora import add_adapter
from energyaware.masks import Masks, achieved_sparsity, keep_through_training, pruning_columns, save_masks
from energyaware.models import audit, context_length, load_tokenizer
from energyaware.precision import PRECISIONS
from energyaware.rows import Row
from energyaware.stage import Outcome
from energyaware.tasks import TASKS
from energyaware.tasks.data import load_splits

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.energy.base import Meter
    from energyaware.spec import FinetuneSpec
    from energyaware.stage import Place
    from energyaware.store import Store

VALIDATION_EXAMPLES: Final = 64
"""Validation examples the loss is taken over after each epoch: enough for a curve, little beside the epoch."""
CHECK_EVERY: Final = 20
"""Steps between checks that the loss is finite; each costs one reduction over the ranks."""


def finetune(stage_id: str, spec: FinetuneSpec, place: Place, meter: Meter, store: Store) -> Outcome:
    """Fine-tune and leave adapter or weights, masks and tokenizer as the stage's artifact.

    Raises:
        Diverged: the loss became NaN or infinite.
        AuditError: the precision or the mask is not what the settings say.
    """
    import torch

    precision = PRECISIONS[spec.precision]
    tokenizer = load_tokenizer(spec.model)
    splits = load_splits(spec.data, spec.tasks)
    examples = {
        split: [TASKS[task].example(record) for task in spec.tasks for record in records]
        for split, records in (("train", splits.train), ("validation", splits.validation))
    }
    base, masks = model_to_train(spec, place, meter, store.scratch_folder(stage_id))
    audited = audit(base, precision)
    length = min(spec.sequence_length, context_length(base))
    train = tokenise(examples["train"], tokenizer, length)
    validation = tokenise(_spread(examples["validation"], VALIDATION_EXAMPLES), tokenizer, length)

    torch.manual_seed(spec.seed)  # the same adapter on every rank, whatever loading drew
    model = _trainable(base, spec, masks)
    trainer = _Trainer(model, spec, place, tokenizer.pad_token_id, length, len(train))
    try:
        epochs = [_one_epoch(trainer, epoch, batches, validation, meter) for epoch, batches in _epochs(train, spec)]
        trained = [p for p in model.parameters() if p.requires_grad]
        columns: Row = {
            "trained_parameters": sum(getattr(p, "ds_numel", p.numel()) for p in trained),
            **pruning_columns(masks, spec.pruning),
            **audited.columns,
        }
        with trainer.gathered():
            if place.rank == 0:
                columns["sparsity_achieved"] = achieved_sparsity(base, masks)
                with store.new_artifact(stage_id) as folder:
                    _save(model, tokenizer, masks, folder)
    finally:
        trainer.destroy()
    return Outcome(columns, epochs=epochs)


def _trainable(base: Any, spec: FinetuneSpec, masks: Masks) -> Any:
    base.config.use_cache = False
    if spec.method == "lora":
        return add_adapter(base, spec, masks)
    base.requires_grad_(True)
    keep_through_training(base, masks)
    return base


def _epochs(train: Sequence[Tokens], spec: FinetuneSpec) -> Iterator[tuple[int, list[list[Tokens]]]]:
    """Epochs from 1 with their global batches; `steps`, where given, cuts the last one short."""
    left = total_steps(len(train), spec)
    epoch = 0
    while left > 0:
        epoch += 1
        batches = list(epoch_batches(train, spec.batch_size, spec.seed, epoch))[:left]
        left -= len(batches)
        yield epoch, batches


def total_steps(examples: int, spec: FinetuneSpec) -> int:
    """Optimizer steps of the whole fine-tuning."""
    return spec.steps or spec.epochs * steps_per_epoch(examples, spec.batch_size)


def _one_epoch(
    trainer: _Trainer, epoch: int, batches: list[list[Tokens]], validation: list[Tokens], meter: Meter
) -> Row:
    with meter.window("train", epoch=epoch):
        loss = trainer.train(batches)
    with meter.window("evaluate", epoch=epoch):
        validation_loss = trainer.loss_of(validation)
    return {
        "epoch": epoch,
        "steps": len(batches),
        "loss": loss,
        "validation_loss": validation_loss,
        "tokens": sum(len(tokens.ids) for batch in batches for tokens in batch),
    }


@dataclass
class _Sum:
    """A sum of losses and the number of target tokens it is over."""

    loss: Any
    targets: int


class _Trainer:
    """A DeepSpeed engine and the loss it trains on: the mean over the target tokens of the whole global batch.

    Every rank knows the whole batch, so the mean is exact however its tokens fall on ranks and micro-batches, and
    the result of a fine-tuning does not depend on the number of workers.
    """

    def __init__(self, model: Any, spec: FinetuneSpec, place: Place, pad_id: int, length: int, examples: int) -> None:
        import deepspeed
        import torch
        from transformers import get_cosine_schedule_with_warmup

        self._place, self._pad_id, self._length = place, pad_id, length
        share = spec.batch_size // place.world_size
        self._micro = min(spec.micro_batch_size or share, share)
        self._accumulate = share // self._micro
        steps = total_steps(examples, spec)
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=spec.learning_rate,
            weight_decay=spec.weight_decay,
        )
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            lr_scheduler=get_cosine_schedule_with_warmup(optimizer, math.ceil(spec.warmup * steps), steps),
            config=deepspeed_config(spec, self._micro, place.world_size),
        )

    def train(self, batches: list[list[Tokens]]) -> float:
        """Take one step per batch. Returns the mean loss per target token, in nats."""
        import torch

        self._engine.train()
        total = _Sum(torch.zeros((), dtype=torch.float64, device=self._engine.device), 0)
        for step, batch in enumerate(batches, start=1):
            targets = sum(tokens.targets for tokens in batch)
            mine = share_of_rank(batch, self._place.rank, self._place.world_size)
            for start in range(0, len(mine), self._micro):
                loss = self._summed_loss(mine[start : start + self._micro])
                total.loss += loss.detach()
                # DeepSpeed takes the mean over ranks and micro-batches; what is wanted is the mean over all targets.
                self._engine.backward(loss * (self._place.world_size * self._accumulate / targets))
                self._engine.step()
            total.targets += targets
            if step % CHECK_EVERY == 0 or step == len(batches):
                mean = _over_ranks(total.loss) / total.targets
                if not math.isfinite(mean):
                    raise Diverged(f"the loss became {mean} by step {self._engine.global_steps}")
        return mean

    def loss_of(self, tokens: list[Tokens]) -> float:
        """Mean loss per target token, in nats, without training."""
        import torch

        self._engine.eval()
        mine = share_of_rank(tokens, self._place.rank, self._place.world_size)
        total = torch.zeros((), dtype=torch.float64, device=self._engine.device)
        with torch.no_grad():
            for start in range(0, len(mine), self._micro):
                total += self._summed_loss(mine[start : start + self._micro])
        return _over_ranks(total) / sum(item.targets for item in tokens)

    def _summed_loss(self, tokens: list[Tokens]) -> Tensor:
        """Cross-entropy summed over the target tokens, in nats."""
        from torch.nn.functional import cross_entropy

        ids, attention, labels = (t.to(self._engine.device) for t in pad_right(tokens, self._pad_id, self._length))
        logits = self._engine(input_ids=ids, attention_mask=attention).logits
        return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum")

    def gathered(self) -> Any:
        """Inside, all parameters are whole on rank 0; under ZeRO 3 they are partitioned elsewhere."""
        import deepspeed

        partitioned = [p for p in self._engine.module.parameters() if hasattr(p, "ds_id")]
        return deepspeed.zero.GatheredParameters(partitioned, modifier_rank=None)

    def destroy(self) -> None:
        """Release the engine's hooks, buffers and optimizer."""
        self._engine.destroy()


def deepspeed_config(spec: FinetuneSpec, micro_batch: int, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a fine-tuning."""
    compute = PRECISIONS[spec.precision].compute
    return {
        "train_batch_size": spec.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": spec.batch_size // world_size // micro_batch,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": spec.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": compute == "bfloat16"},
        "fp16": {"enabled": compute == "float16"},
        "steps_per_print": 2**31,
    }


def _save(model: Any, tokenizer: Any, masks: Masks, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_masks(masks, folder)


def _over_ranks(value: Tensor) -> float:
    """The sum of a value over all ranks."""
    import torch

    value = value.clone()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return float(value)


def _spread(examples: Sequence[Any], wanted: int) -> Sequence[Any]:
    """At most `wanted` of the examples, evenly spread."""
    return examples[:: max(1, math.ceil(len(examples) / wanted))]

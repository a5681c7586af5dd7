"""One fine-tuning: DeepSpeed data parallel training of an adapter or of all weights, with joules per epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from energyaware.assemble import Materials, keep_base, model_to_train
from energyaware.audit import audit
from energyaware.batches import Tokens, epoch_batches, steps_per_epoch, tokenise
from energyaware.errors import Diverged
from energyaware.lora import add_adapter
from energyaware.masks import Masks, keep_through_training
from energyaware.models import context_length, load_tokenizer
from energyaware.precision import PRECISIONS
from energyaware.rows import Row
from energyaware.stage import Outcome
from energyaware.tasks import TASKS
from energyaware.tasks.data import load_splits
from energyaware.trainer import Trainer

if TYPE_CHECKING:
    from energyaware.energy.base import Meter
    from energyaware.spec import FinetuneSpec
    from energyaware.stage import Place
    from energyaware.store import Store

VALIDATION_EXAMPLES: Final = 64
"""Validation examples the loss is taken over after each epoch: enough for a curve, little beside the epoch."""


def finetune(stage_id: str, spec: FinetuneSpec, place: Place, meter: Meter, store: Store) -> Outcome:
    """Fine-tune and leave adapter or weights, masks and tokenizer as the stage's artifact.

    Raises:
        Diverged: the loss became NaN or infinite, or gradients never became finite.
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
    scratch = store.scratch_folder(stage_id)
    base, pruned = model_to_train(spec, place, meter, scratch, Materials(tokenizer, examples["train"]))
    audited = audit(base, precision)
    length = min(spec.sequence_length, context_length(base, tokenizer))
    train = tokenise(examples["train"], tokenizer, length)
    validation = tokenise(_spread(examples["validation"], VALIDATION_EXAMPLES), tokenizer, length)

    torch.manual_seed(spec.seed)  # the same adapter on every rank, whatever loading drew
    model = _trainable(base, spec, pruned.masks)
    trainer = Trainer(model, spec, place, tokenizer.pad_token_id, length, total_steps(len(train), spec))
    try:
        with precision.arithmetic():
            epochs = [_one_epoch(trainer, epoch, batches, validation, meter) for epoch, batches in _epochs(train, spec)]
        if not trainer.steps_taken:
            raise Diverged("gradients overflowed in every step: nothing was trained")
        trained = [p for p in model.parameters() if p.requires_grad]
        columns: Row = {
            "model_family": base.config.model_type,
            "trained_parameters": sum(getattr(p, "ds_numel", p.numel()) for p in trained),
            **pruned.columns(spec.pruning),
            **audited.columns,
        }
        with trainer.gathered():
            if place.rank == 0:
                columns["sparsity_achieved"] = pruned.verify(base)
                with store.new_artifact(stage_id) as folder:
                    model.save_pretrained(folder)
                    tokenizer.save_pretrained(folder)
                    pruned.save(folder)
                    keep_base(spec, scratch, folder)
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
    trainer: Trainer, epoch: int, batches: list[list[Tokens]], validation: list[Tokens], meter: Meter
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


def _spread(examples: Sequence[Any], wanted: int) -> Sequence[Any]:
    """At most `wanted` of the examples, evenly spread."""
    return examples[:: max(1, math.ceil(len(examples) / wanted))]

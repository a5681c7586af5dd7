"""One fine-tuning: DeepSpeed data parallel training of an adapter or of all weights, with joules per epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from energyaware.assemble import Materials, keep_base, model_to_train
from energyaware.audit import audit
from energyaware.batches import tokenise
from energyaware.checkpoint_store import Start
from energyaware.checkpoints import UNKEPT, Keeping
from energyaware.errors import Diverged
from energyaware.gang_checkpoints import GangCheckpoints
from energyaware.lora import add_adapter
from energyaware.masks import Masks, keep_through_training
from energyaware.models import context_length, load_tokenizer
from energyaware.points import reached
from energyaware.precision import PRECISIONS
from energyaware.rows import Row
from energyaware.stage import Carried, Outcome
from energyaware.tasks import TASKS
from energyaware.tasks.data import load_splits
from energyaware.trainer import Trainer
from energyaware.training import Training, total_steps

if TYPE_CHECKING:
    from energyaware.energy.base import Meter
    from energyaware.pruning_record import PruningRecord
    from energyaware.spec import FinetuneSpec
    from energyaware.stage import Place
    from energyaware.store import Store

VALIDATION_EXAMPLES: Final = 64
"""Validation examples the loss is taken over after each epoch: enough for a curve, little beside the epoch."""


def finetune(
    stage_id: str, spec: FinetuneSpec, place: Place, meter: Meter, store: Store, keeping: Keeping = UNKEPT
) -> Outcome:
    """Fine-tune and leave adapter or weights, masks and tokenizer as the stage's artifact.

    It goes on from the stage's last checkpoint, and leaves its own; they stay when it returns.

    Raises:
        Interrupted: the run is being stopped.
        StoppedEarly: other fine-tunings are too far ahead.
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
            start = _start(stage_id, spec, place, model, pruned)
            checkpoints = GangCheckpoints(store.files, start, place, trainer, keeping, store.check_fence)
            resumed = checkpoints.resume()
            training = Training(trainer, train, validation, spec, place, meter, checkpoints, keeping, resumed)
            epochs = training.run()
        if place.rank == 0:
            reached("epochs-done")
        if not trainer.steps_taken:
            raise Diverged("gradients overflowed in every step: nothing was trained")
        trained = [p for p in model.parameters() if p.requires_grad]
        columns: Row = {
            "model_family": base.config.model_type,
            "micro_batch_size": trainer.micro_batch_size,
            "trained_parameters": sum(getattr(p, "ds_numel", p.numel()) for p in trained),
            **pruned.columns(spec.pruning),
            **audited.columns,
        }
        with trainer.gathered():
            if place.rank == 0:
                columns["sparsity_achieved"] = pruned.verify(base)
                with store.new_artifact(stage_id) as folder:
                    model.save_pretrained(folder)
                    reached("artifact-writing")
                    tokenizer.save_pretrained(folder)
                    pruned.save(folder)
                    keep_base(spec, scratch, folder)
    finally:
        trainer.destroy()
    earlier = tuple(Carried(*part) for part in checkpoints.attempts if part[0] != keeping.attempt)
    return Outcome(columns, epochs=epochs, carried=earlier)


def _trainable(base: Any, spec: FinetuneSpec, masks: Masks) -> Any:
    base.config.use_cache = False
    if spec.method == "lora":
        return add_adapter(base, spec, masks)
    base.requires_grad_(True)
    keep_through_training(base, masks)
    return base


def _start(stage_id: str, spec: FinetuneSpec, place: Place, model: Any, pruned: PruningRecord) -> Start:
    """What a checkpoint must have in common with this training. Weights follow from settings; masks are compared."""
    trained = {name: list(getattr(p, "ds_shape", p.shape)) for name, p in model.named_parameters() if p.requires_grad}
    return Start(
        stage_id,
        digest=pruned.digest(trained) if place.rank == 0 else "",
        world_size=place.world_size,
        zero_stage=spec.zero_stage,
        versions={library: version(library) for library in ("torch", "deepspeed")},
    )


def _spread(examples: Sequence[Any], wanted: int) -> Sequence[Any]:
    """At most `wanted` of the examples, evenly spread."""
    return examples[:: max(1, math.ceil(len(examples) / wanted))]

"""From a sweep to its trials: every model with every precision, pruning and seed, on every kind of GPU asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from energyaware.model_ref import builtin_ref, folder_ref, hub_ref
from energyaware.pruning.calibration import text_ref
from energyaware.spec import DENSE, Calibration, DataRef, FinetuneSpec, InferenceSpec, ModelRef, Pruning, stage_id
from energyaware.tasks import data as task_data
from sweep.config import Sweep
from sweep.inputs import Model


@dataclass(frozen=True)
class Trial:
    """One configuration with one seed: an inference, and the fine-tuning it starts from (None: the base model)."""

    finetune: FinetuneSpec | None
    inference: InferenceSpec


def trials(sweep: Sweep) -> Iterator[Trial]:
    """All trials of a sweep, trials that share a fine-tuning next to each other.

    Raises:
        InputError: model or data cannot be found or used.
    """
    models = [model_ref(model, f"model[{index}]") for index, model in enumerate(sweep.model)]
    data, calibration = data_ref(sweep), calibration_of(sweep)
    # A setting that is asked for twice, once in a list of its own, is one trial.
    precisions = dict.fromkeys(pair for choice in sweep.precisions for pair in choice.pairs())
    prunings = dict.fromkeys(pruning for choice in sweep.prunings for pruning in choice.prunings(calibration))
    if sweep.finetune.method == "none":  # nothing to be before or after of
        prunings = dict.fromkeys(replace(p, applied="after" if p.applied else None) for p in prunings)
    axes = product(sweep.resources.gpu_kinds, models, precisions, sweep.seeds, prunings)
    for gpu_kind, model, (trained_in, served_in), seed, pruning in axes:
        yield _trial(sweep, model, data, trained_in, served_in, pruning, seed, gpu_kind)


def _trial(
    sweep: Sweep,
    model: ModelRef,
    data: DataRef,
    trained_in: str,
    served_in: str,
    pruning: Pruning,
    seed: int,
    gpu_kind: str | None,
) -> Trial:
    training = sweep.finetune
    finetune = None
    if training.method != "none":
        finetune = FinetuneSpec(
            model=model,
            data=data,
            tasks=sweep.tasks,
            precision=trained_in,
            pruning=replace(pruning, realisation="auto") if pruning.applied == "before" else DENSE,
            method=training.method,
            epochs=training.epochs,
            steps=training.steps,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            warmup=training.warmup,
            weight_decay=training.weight_decay,
            sequence_length=training.sequence_length,
            lora_rank=training.lora.rank if training.method == "lora" else 0,
            lora_alpha=training.lora.alpha if training.method == "lora" else 0.0,
            lora_dropout=training.lora.dropout if training.method == "lora" else 0.0,
            zero_stage=training.zero_stage,
            seed=seed,
            micro_batch_size=training.micro_batch_size,
            gpu_kind=gpu_kind,
        )
    inference = InferenceSpec(
        model=model,
        data=data,
        tasks=sweep.tasks,
        finetuned=stage_id(finetune) if finetune else None,
        finetune_method=training.method,
        finetune_precision=trained_in if finetune else served_in,
        precision=served_in,
        pruning=pruning,
        batch_size=sweep.inference.batch_size,
        sequence_length=training.sequence_length,
        max_new_tokens=sweep.inference.max_new_tokens,
        test_examples=sweep.inference.test_examples,
        min_window_s=sweep.inference.min_window_s,
        repeats=sweep.inference.repeats,
        seed=seed,
        gpu_kind=gpu_kind,
    )
    return Trial(finetune, inference)


def model_ref(model: Model, field: str) -> ModelRef:
    """What a model of the sweep file is, pinned.

    Raises:
        InputError: its folder is not a model.
    """
    if model.folder is not None:
        return folder_ref(Path(model.folder), f"{field}.folder", trust_remote_code=model.trust_remote_code)
    if model.hub is not None:
        return hub_ref(model.hub, model.revision, f"{field}.hub", trust_remote_code=model.trust_remote_code)
    return builtin_ref()


def data_ref(sweep: Sweep) -> DataRef:
    """What the data of the sweep file are, pinned.

    Raises:
        InputError: a file is missing or of an unknown kind.
    """
    data = sweep.data
    if data.builtin:
        return task_data.builtin_ref()
    files = {"path": data.path, "train": data.train, "validation": data.validation, "test": data.test}
    if data.hub is not None:
        return task_data.hub_ref(data.hub, data.revision, **files, columns=data.columns)
    return task_data.files_ref(**files, columns=data.columns)


def calibration_of(sweep: Sweep) -> Calibration:
    """What calibrated prunings look at, own texts pinned by their content.

    Raises:
        InputError: the file of texts is missing or of an unknown kind.
    """
    choice = sweep.calibration
    return Calibration(choice.examples, text_ref(choice.path, choice.column) if choice.path else None)

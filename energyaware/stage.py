"""One stage on one gang: what every worker of it calls, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from energyaware.checkpoints import UNKEPT, Keeping
from energyaware.errors import OutOfMemory, StageError
from energyaware.memory import shortage_of
from energyaware.precision import Hardware
from energyaware.rows import Row
from energyaware.spec import FinetuneSpec, StageSpec
from energyaware.versions import versions

if TYPE_CHECKING:
    from energyaware.energy.base import Meter
    from energyaware.precision import Device
    from energyaware.store import Store


class Place(Protocol):
    """Where a worker stands in its gang."""

    @property
    def rank(self) -> int:
        """From 0."""

    @property
    def world_size(self) -> int:
        """Number of workers."""

    @property
    def device(self) -> Device:
        """What the worker computes on."""


@dataclass(frozen=True)
class Carried:
    """Training of an earlier attempt that is part of the result: from one number of optimizer steps to another."""

    attempt: int
    from_step: int
    to_step: int


@dataclass(frozen=True)
class Outcome:
    """What a stage found out, without its joules.

    Attributes:
        columns: of its row.
        epochs: rows of the epochs table, those of earlier attempts too.
        quality: rows of the quality table.
        carried: earlier attempts whose training it went on from, in order.
    """

    columns: Row
    epochs: list[Row] = field(default_factory=list)
    quality: list[Row] = field(default_factory=list)
    carried: tuple[Carried, ...] = ()


def run_stage(
    stage_id: str, spec: StageSpec, place: Place, meter: Meter, store: Store, keeping: Keeping | None = None
) -> Outcome:
    """Run one stage as one rank of a gang whose process group is up.

    A fine-tuning goes on from its last committed checkpoint, if there is one.

    The artifact, if the stage makes one, is in the store when this returns; rows are the caller's.

    Raises:
        OutOfMemory: this rank asked for more memory than there is.
        StageError: the stage ended without a result.
    """
    keeping = keeping or UNKEPT
    try:
        return _run(stage_id, spec, place, meter, store, keeping)
    except Exception as problem:
        if shortage := shortage_of(problem):
            raise OutOfMemory(f"{shortage}, {_batch(spec, place)}") from problem
        raise


def _run(stage_id: str, spec: StageSpec, place: Place, meter: Meter, store: Store, keeping: Keeping) -> Outcome:
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(spec.seed)
    _check_hardware(spec, place)
    if isinstance(spec, FinetuneSpec):
        from energyaware.finetune import finetune

        outcome = finetune(stage_id, spec, place, meter, store, keeping)
    else:
        from energyaware.inference import infer

        outcome = infer(stage_id, spec, place, meter, store, keeping)
    return replace(outcome, columns=outcome.columns | _environment(place))


def _batch(spec: StageSpec, place: Place) -> str:
    """What to make smaller."""
    if not isinstance(spec, FinetuneSpec):
        return f"with batches of {spec.batch_size} requests"
    from energyaware.trainer import micro_batch_size

    return f"with micro-batches of {micro_batch_size(spec, place)}"


def _check_hardware(spec: StageSpec, place: Place) -> None:
    """The plan knew the launching machine; this is the worker's own device."""
    import torch

    from energyaware.support import refusal

    capability = torch.cuda.get_device_capability() if place.device == "cuda" else None
    if reason := refusal(spec, Hardware(place.device, capability)):
        raise StageError(reason)


def warm_up() -> None:
    """Imports that every stage needs, made once when a worker is started."""
    import bitsandbytes
    import deepspeed
    import peft
    import transformers.models.auto.modeling_auto  # noqa: F401

    from energyaware.operators import compile_operators

    compile_operators()  # the first time it takes a while: no stage's joules
    deepspeed.init_distributed(verbose=False)
    del bitsandbytes, deepspeed, peft


def _environment(place: Place) -> dict[str, Any]:
    import json

    import torch

    return {
        "device": place.device,
        "device_name": torch.cuda.get_device_name() if place.device == "cuda" else _processor(),
        "versions": json.dumps(versions()),
    }


def _processor() -> str:
    """The processor's name, as Linux gives it."""
    import platform
    from pathlib import Path

    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.processor() or platform.machine()

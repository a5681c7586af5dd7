"""One process that is a gang of its own, and a fine-tuning small enough for it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from energyaware.spec import DENSE, FinetuneSpec


@dataclasses.dataclass(frozen=True)
class Alone:
    """The only worker, on the CPU."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"


@contextmanager
def process_group_of_one() -> Iterator[Alone]:
    """A process group of this process and the environment that DeepSpeed wants with it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
            patch.setenv(name, value)
        patch.setenv("MASTER_PORT", "29500")  # read and not used: the store is in this process
        if not torch.distributed.is_initialized():  # for good: DeepSpeed keeps groups it has made
            torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        yield Alone()


def finetune_spec(ref, data=None, **changes):
    """Two epochs of full fine-tuning in fp32, with what is changed of it."""
    spec = FinetuneSpec(
        model=ref, data=data, tasks=("root_cause", "response"), precision="fp32", pruning=DENSE, method="full",
        epochs=2, steps=None, batch_size=16, learning_rate=1e-2, warmup=0.1, weight_decay=0.1, sequence_length=64,
        lora_rank=4, lora_alpha=8.0, lora_dropout=0.0, zero_stage=0, seed=0,
    )  # fmt: skip
    return dataclasses.replace(spec, **changes)

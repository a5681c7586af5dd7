"""Training with DeepSpeed: the loss, the steps, and the scaling of the loss that fp16 needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energyaware.batches import IGNORED, Tokens, forwards_of_rank, pad_right, share_of_rank
from energyaware.errors import Diverged
from energyaware.models import decoder_start_id
from energyaware.precision import PRECISIONS

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.spec import FinetuneSpec
    from energyaware.stage import Place

LOSS_SCALING: Final = {
    "loss_scale": 0,
    "initial_scale_power": 16,
    "loss_scale_window": 1000,
    "hysteresis": 2,
    "min_loss_scale": 1,
}
"""Of fp16, where small gradients would be zero (Micikevicius et al., 2018, arXiv 1710.03740). Dynamic (0): starts at
2^16, lets the first overflow pass, halves at every other one, doubles after 1000 steps without."""

MOST_OVERFLOWS: Final = 17
"""Steps in a row whose gradients overflowed: as many as take the scale from its start to its least value."""


class Trainer:
    """A DeepSpeed engine and the loss it trains on: the mean over the target tokens of the whole global batch.

    Every rank knows the whole batch, so the mean is exact however its tokens fall on ranks and micro-batches, and
    the result of a fine-tuning does not depend on the number of workers.
    """

    def __init__(self, model: Any, spec: FinetuneSpec, place: Place, pad_id: int, length: int, steps: int) -> None:
        import deepspeed
        import torch
        from transformers import get_cosine_schedule_with_warmup

        from energyaware.checkpoint_content import prepare

        self._place, self._pad_id, self._length = place, pad_id, length
        self._start_id = decoder_start_id(model)
        self._trains_a_part = spec.method == "lora"
        self.micro_batch_size = micro_batch_size(spec, place)
        self._accumulate = spec.batch_size // place.world_size // self.micro_batch_size
        self.overflows = 0
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=spec.learning_rate,
            weight_decay=spec.weight_decay,
        )
        warm = min(math.ceil(spec.warmup * steps), steps - 1)  # the first step of a warm-up has a learning rate of 0
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            lr_scheduler=get_cosine_schedule_with_warmup(optimizer, warm, steps),
            config=deepspeed_config(spec, self.micro_batch_size, place.world_size),
        )
        prepare(self._engine)

    def step(self, batch: Sequence[Tokens]) -> Tensor:
        """Take one optimizer step on a global batch.

        Returns:
            The loss summed over the target tokens of this rank's share, in nats, before the step: float64, on the
            device, which may still be at work on it.
        """
        self._engine.train()
        total = self.no_loss()
        targets = targets_of(batch)
        mine = share_of_rank(batch, self._place.rank, self._place.world_size)
        for start in range(0, len(mine), self.micro_batch_size):
            loss = self._summed_loss(mine[start : start + self.micro_batch_size])
            total += loss.detach()
            # DeepSpeed takes the mean over ranks and micro-batches; what is wanted is the mean over all targets.
            self._engine.backward(loss * (self._place.world_size * self._accumulate / targets))
            self._step()
        return total

    def no_loss(self) -> Tensor:
        """Zero, to add losses to."""
        import torch

        return torch.zeros((), dtype=torch.float64, device=self._engine.device)

    def _step(self) -> None:
        """A micro-step; the last of a batch moves the weights.

        Where gradients overflow, DeepSpeed skips the step, and lowers the loss scale in fp16. That is no divergence
        while the scale still finds its place, as the loss itself is finite: only overflow without an end is.
        """
        skipped = self._engine.skipped_steps
        moves = self._engine.is_gradient_accumulation_boundary()
        try:
            self._engine.step()
        except Exception as error:
            if out_of_scale(error):
                raise Diverged("gradients overflow even at the least loss scale") from error
            raise
        if moves:
            self.overflows = self.overflows + 1 if self._engine.skipped_steps > skipped else 0
        if self.overflows >= MOST_OVERFLOWS:
            raise Diverged(f"gradients overflowed in {self.overflows} steps in a row")

    @property
    def steps_taken(self) -> int:
        """Optimizer steps that moved the weights."""
        return int(self._engine.global_steps - self._engine.skipped_steps)

    def loss_of(self, tokens: list[Tokens]) -> float:
        """Mean loss per target token, in nats, without training."""
        import torch

        self._engine.eval()
        place, total = self._place, self.no_loss()
        with torch.no_grad():
            for mine in forwards_of_rank(tokens, place.rank, place.world_size, self.micro_batch_size):
                # Under ZeRO 3 all ranks bring the parameters of a forward together: one without examples joins in.
                loss = self._summed_loss(mine or tokens[:1])
                if mine:
                    total += loss
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
        return float(total) / targets_of(tokens)

    def _summed_loss(self, tokens: list[Tokens]) -> Tensor:
        """Cross-entropy summed over the target tokens, in nats."""
        from torch.nn.functional import cross_entropy

        batch, targets = pad_right(tokens, self._pad_id, self._length, self._start_id)
        device = self._engine.device
        logits = self._engine(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
        return cross_entropy(
            logits.flatten(0, 1).float(), targets.to(device).flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def gathered(self) -> Any:
        """Inside, all parameters are whole on rank 0; under ZeRO 3 they are partitioned elsewhere."""
        import deepspeed

        partitioned = [p for p in self._engine.module.parameters() if hasattr(p, "ds_id")]
        return deepspeed.zero.GatheredParameters(partitioned, modifier_rank=None)

    def save(self, folder: Path) -> dict[str, int]:
        """Write this rank's part of a checkpoint; see `energyaware.checkpoint_content`. Every rank must call it."""
        from energyaware.checkpoint_content import save

        return save(self._engine, folder, self._place.rank, trained_only=self._trains_a_part)

    def load(self, folder: Path, overflows: int) -> None:
        """Go on from a checkpoint, before the first step. Every rank must call it.

        Args:
            folder: of the checkpoint.
            overflows: steps in a row whose gradients had overflowed.
        """
        from energyaware.checkpoint_content import load

        load(self._engine, folder, self._place.rank, trained_only=self._trains_a_part)
        self.overflows = overflows

    def destroy(self) -> None:
        """Release the engine's hooks, buffers and optimizer."""
        self._engine.destroy()


def micro_batch_size(spec: FinetuneSpec, place: Place) -> int:
    """Examples per worker and forward pass."""
    share = spec.batch_size // place.world_size
    return min(spec.micro_batch_size or share, share)


def targets_of(tokens: Sequence[Tokens]) -> int:
    """Target tokens of all examples together."""
    return sum(item.targets for item in tokens)


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
        "fp16": {"enabled": compute == "float16", **LOSS_SCALING},
        "steps_per_print": 2**31,
    }


def out_of_scale(error: Exception) -> bool:
    """Whether DeepSpeed gave up lowering the loss scale, for which it has no class of its own."""
    return "loss scale already at minimum" in str(error)

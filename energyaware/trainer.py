"""Training with DeepSpeed: the loss, the steps, and the scaling of the loss that fp16 needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from energyaware.batches import IGNORED, Tokens, pad_right, share_of_rank
from energyaware.errors import Diverged
from energyaware.models import decoder_start_id
from energyaware.precision import PRECISIONS

if TYPE_CHECKING:
    from torch import Tensor

    from energyaware.spec import FinetuneSpec
    from energyaware.stage import Place

CHECK_EVERY: Final = 20
"""Steps between checks that the loss is finite; each costs one reduction over the ranks."""

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


@dataclass
class _Sum:
    """A sum of losses and the number of target tokens it is over."""

    loss: Any
    targets: int


class Trainer:
    """A DeepSpeed engine and the loss it trains on: the mean over the target tokens of the whole global batch.

    Every rank knows the whole batch, so the mean is exact however its tokens fall on ranks and micro-batches, and
    the result of a fine-tuning does not depend on the number of workers.
    """

    def __init__(self, model: Any, spec: FinetuneSpec, place: Place, pad_id: int, length: int, steps: int) -> None:
        import deepspeed
        import torch
        from transformers import get_cosine_schedule_with_warmup

        self._place, self._pad_id, self._length = place, pad_id, length
        self._start_id = decoder_start_id(model)
        self._overflows = 0
        share = spec.batch_size // place.world_size
        self._micro = min(spec.micro_batch_size or share, share)
        self._accumulate = share // self._micro
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
                self._step()
            total.targets += targets
            if step % CHECK_EVERY == 0 or step == len(batches):
                mean = _over_ranks(total.loss) / total.targets
                if not math.isfinite(mean):
                    raise Diverged(f"the loss became {mean} by step {self._engine.global_steps}")
        return mean

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
            self._overflows = self._overflows + 1 if self._engine.skipped_steps > skipped else 0
        if self._overflows >= MOST_OVERFLOWS:
            raise Diverged(f"gradients overflowed in {self._overflows} steps in a row")

    @property
    def steps_taken(self) -> int:
        """Optimizer steps that moved the weights."""
        return int(self._engine.global_steps - self._engine.skipped_steps)

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
        "fp16": {"enabled": compute == "float16", **LOSS_SCALING},
        "steps_per_print": 2**31,
    }


def out_of_scale(error: Exception) -> bool:
    """Whether DeepSpeed gave up lowering the loss scale, for which it has no class of its own."""
    return "loss scale already at minimum" in str(error)


def _over_ranks(value: Tensor) -> float:
    """The sum of a value over all ranks."""
    import torch

    value = value.clone()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return float(value)

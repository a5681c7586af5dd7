"""The way of a training through its epochs, from wherever a checkpoint left it: windows, checkpoints, when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from energyaware.batches import Tokens, epoch_batches, steps_per_epoch
from energyaware.checkpoints import Pace
from energyaware.errors import Diverged, Interrupted, StoppedEarly
from energyaware.gang_checkpoints import Reached
from energyaware.halving import Verdict
from energyaware.points import reached
from energyaware.rows import Row
from energyaware.trainer import targets_of

if TYPE_CHECKING:
    from energyaware.checkpoint_store import Committed
    from energyaware.checkpoints import Keeping
    from energyaware.energy.base import Meter
    from energyaware.gang_checkpoints import GangCheckpoints
    from energyaware.spec import FinetuneSpec
    from energyaware.stage import Place
    from energyaware.trainer import Trainer

AGREE_EVERY: Final = 20
"""Steps at most between two agreements of the ranks, each of which costs a reduction and a look at the loss."""

AGREE_S: Final = 1.0
"""Seconds wanted between two of them: what a stop waits for, and how late a checkpoint may be."""


@dataclass(frozen=True)
class Agreed:
    """What all ranks know after an agreement.

    Attributes:
        loss_sum: of the epoch so far, over all ranks, in nats.
        due: whether it is time for a checkpoint.
        stop: whether the run is being stopped.
    """

    loss_sum: float
    due: bool
    stop: bool


class Training:
    """All epochs of a fine-tuning.

    Args:
        trainer: takes the steps; brought to where `resumed` left off.
        train: examples that it is trained on.
        validation: examples that each epoch's model is evaluated on.
        spec: settings.
        place: of this rank.
        meter: opens the windows.
        checkpoints: where it leaves its own.
        keeping: when it does, and whether the run is being stopped.
        resumed: the checkpoint that it goes on from.
    """

    def __init__(
        self,
        trainer: Trainer,
        train: Sequence[Tokens],
        validation: list[Tokens],
        spec: FinetuneSpec,
        place: Place,
        meter: Meter,
        checkpoints: GangCheckpoints,
        keeping: Keeping,
        resumed: Committed | None,
    ) -> None:
        self._trainer, self._train, self._validation, self._spec = trainer, train, validation, spec
        self._leads, self._meter, self._checkpoints, self._keeping = place.rank == 0, meter, checkpoints, keeping
        self._step = resumed.step if resumed else 0
        self._epochs = list(resumed.epochs) if resumed else []
        self._loss_sum = trainer.no_loss() + (resumed.loss_sums[place.rank] if resumed else 0.0)
        self._total = total_steps(len(train), spec)
        self._pace = Pace(keeping.rule)
        self._agree_at = self._step + 1

    def run(self) -> list[Row]:
        """Train what is left to train. Returns rows of all epochs, those of earlier attempts too.

        Raises:
            Diverged: the loss became NaN or infinite, or gradients never became finite.
            Interrupted: the run is being stopped.
            StoppedEarly: other fine-tunings are too far ahead.
        """
        while self._step < self._total:
            begun_at = sum(row["steps"] for row in self._epochs)
            epoch = len(self._epochs) + 1
            batches = list(epoch_batches(self._train, self._spec.batch_size, self._spec.seed, epoch))
            self._one_epoch(epoch, begun_at, batches[: self._total - begun_at])
        return self._epochs

    def _one_epoch(self, epoch: int, begun_at: int, batches: list[list[Tokens]]) -> None:
        while True:
            with self._meter.window("train", epoch=epoch, from_step=self._step):
                agreed = self._stretch(begun_at, batches)
            if self._step == begun_at + len(batches):
                break
            self._keep(epoch, agreed)
        with self._meter.window("evaluate", epoch=epoch, from_step=self._step):
            validation_loss = self._trainer.loss_of(self._validation)
        self._epochs.append(
            {
                "epoch": epoch,
                "steps": len(batches),
                "loss": agreed.loss_sum / sum(map(targets_of, batches)),
                "validation_loss": validation_loss,
                "tokens": sum(len(tokens.ids) for batch in batches for tokens in batch),
            }
        )
        self._loss_sum = self._trainer.no_loss()
        verdict = self._verdict(epoch, validation_loss) if self._step < self._total else None
        # After the evaluation, which nobody who goes on from here has to do again.
        if agreed.due or agreed.stop or verdict:
            self._keep(epoch, agreed)
        if verdict:
            raise StoppedEarly(str(verdict))

    def _verdict(self, epoch: int, validation_loss: float) -> Verdict | None:
        """What the first rank is told by those who see all fine-tunings; all ranks know it then."""
        import torch

        judge = self._keeping.judge
        if judge is None:
            return None
        said = torch.zeros(2, dtype=torch.float64, device=self._loss_sum.device)
        if self._leads and (verdict := judge(epoch, validation_loss)):
            said += torch.tensor([verdict.place, verdict.of])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(said)
        place, of = map(int, said.tolist())
        return Verdict(epoch, place, of) if place else None

    def _stretch(self, begun_at: int, batches: list[list[Tokens]]) -> Agreed:
        """Take steps until it is time for a checkpoint, or the epoch has no more of them."""
        first_step, began_s = self._step, self._pace.now_s()
        targets = sum(map(targets_of, batches[: first_step - begun_at]))
        end = begun_at + len(batches)
        while True:
            batch = batches[self._step - begun_at]
            self._loss_sum += self._trainer.step(batch)
            self._step += 1
            targets += targets_of(batch)
            if self._leads:
                reached("step")
            exactly = self._keeping.rule.due_at(self._step)
            if not (exactly or self._step == end or self._step >= self._agree_at):
                continue
            agreed = self._agree(self._step - first_step, began_s, exactly=exactly)
            if not math.isfinite(agreed.loss_sum):
                raise Diverged(f"the loss became {agreed.loss_sum / targets} by step {self._step}")
            if agreed.due or agreed.stop or self._step == end:
                return agreed

    def _agree(self, steps: int, began_s: float, *, exactly: bool) -> Agreed:
        """Ask all ranks for their losses, and the first for what only it can know. `steps` were taken since then."""
        import torch

        said = torch.zeros(4, dtype=torch.float64, device=self._loss_sum.device)
        said[0] = self._loss_sum
        if self._leads:
            step_s = (self._pace.now_s() - began_s) / steps
            said[1:] = torch.tensor(
                [self._pace.due(), self._keeping.stopping(), min(max(AGREE_S // max(step_s, 1e-9), 1), AGREE_EVERY)]
            )
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(said)
        loss_sum, due, stop, next_in = said.tolist()
        self._agree_at = self._step + int(next_in)
        return Agreed(loss_sum, exactly or due > 0, stop > 0)

    def _keep(self, epoch: int, agreed: Agreed) -> None:
        """Leave a checkpoint, and if the run is being stopped, stop."""
        began_s = self._pace.now_s()
        with self._meter.window("checkpoint", epoch=epoch):
            self._checkpoints.leave(Reached(self._step, epoch, self._epochs, float(self._loss_sum)))
        self._pace.left(began_s)
        if agreed.stop:
            raise Interrupted(f"the run was stopped; it goes on from step {self._checkpoints.last_step}")


def total_steps(examples: int, spec: FinetuneSpec) -> int:
    """Optimizer steps of the whole fine-tuning."""
    return spec.steps or spec.epochs * steps_per_epoch(examples, spec.batch_size)

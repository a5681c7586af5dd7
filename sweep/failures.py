"""What a failure is, and what follows from it: tried again at once, later, with less, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Literal

from energyaware.errors import Interrupted, MeterLost, OutOfMemory, StageError, StoppedEarly, StorageError
from energyaware.spec import FinetuneSpec, StageSpec

Failure = Literal["stopped", "hopeless", "lost node", "out of memory", "storage", "refused", "error"]
"""Why an attempt ended: the run is being stopped; others are too far ahead; its machine is gone; memory; the results
cannot be written; the stage cannot have a result (diverged, mask lost); anything else, which another attempt may not
meet."""

LONGEST_BACKOFF_S: Final = 300.0


@dataclass(frozen=True)
class Ending:
    """How an attempt ended without a result.

    Attributes:
        failure: why.
        state: what the attempt is recorded as.
        reason: in one line.
    """

    failure: Failure
    state: str
    reason: str


@dataclass(frozen=True)
class Again:
    """A stage is to be tried again.

    Attributes:
        delay_s: not before so long.
        micro_batch_size: with so many examples per worker and forward pass; None leaves that as it was.
    """

    delay_s: float
    micro_batch_size: int | None = None


@dataclass(frozen=True)
class Policy:
    """How often, and after how long, what failed is tried again.

    Attributes:
        retries: after errors, and workers that died.
        backoff_s: before the first retry; doubled each time up to `LONGEST_BACKOFF_S`.
    """

    retries: int
    backoff_s: float

    def again(self, failures: Collection[Failure], micro_batch_size: int | None) -> Again | None:
        """What follows from the failures of a stage in this run, the last of which is new.

        Args:
            failures: of the stage, in order.
            micro_batch_size: of the last attempt; None where it trained nothing.
        """
        last = list(failures)[-1]
        number = sum(failure == last for failure in failures)
        delay_s = min(LONGEST_BACKOFF_S, self.backoff_s * 2 ** min(number - 1, 60))  # 2 ** 1024 is no float
        if last == "out of memory":
            less = half(micro_batch_size) if micro_batch_size else None
            return None if less is None else Again(0.0, less)
        if last == "lost node" or (last == "error" and number <= self.retries):
            return Again(delay_s)
        return None


def half(micro_batch_size: int) -> int | None:
    """The largest divisor of a micro-batch up to its half, so that the global batch stays the same; None under 1."""
    return next((less for less in range(micro_batch_size // 2, 0, -1) if micro_batch_size % less == 0), None)


def micro_batch_of(spec: StageSpec, workers: int) -> int | None:
    """Examples per worker and forward pass in training, unless told otherwise; None for inference."""
    if not isinstance(spec, FinetuneSpec):
        return None
    share = spec.batch_size // workers
    return min(spec.micro_batch_size or share, share)


def ending(problem: BaseException, lost: Callable[[], str | None]) -> Ending:
    """What an exception of a stage means.

    Args:
        problem: what was raised, in a worker or for it.
        lost: names the node of the stage that is gone, if one is.
    """
    from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError

    cause = getattr(problem, "cause", None) or problem
    reason = one_line(cause)
    if isinstance(cause, OutOfMemory | OutOfMemoryError):
        return Ending("out of memory", OutOfMemory.state, reason)
    if isinstance(cause, StorageError):
        return Ending("storage", "interrupted", reason)
    if isinstance(cause, Interrupted | StoppedEarly):
        return Ending("stopped" if isinstance(cause, Interrupted) else "hopeless", cause.state, str(cause))
    died = isinstance(cause, RayActorError | GetTimeoutError | TimeoutError | ConnectionError | MeterLost)
    if (died or _of_connection(cause)) and (node := lost()):
        return Ending("lost node", "interrupted", f"{node} was lost")
    if isinstance(cause, StageError):
        return Ending("error" if cause.may_pass else "refused", cause.state, reason)
    return Ending("error", "failed", reason)


def _of_connection(problem: BaseException) -> bool:
    """Whether ranks lost each other, which gloo and NCCL report without a class of their own."""
    text = str(problem).lower()
    return isinstance(problem, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection", "socket"))


def one_line(problem: BaseException) -> str:
    """Kind of error and the first line of what it says."""
    text = str(problem).strip()
    return f"{type(problem).__name__}: {text.splitlines()[0]}" if text else type(problem).__name__

"""What can go wrong, as a tree.

EnergyawareError
├── InputError         the user's file, data or arguments: one line, exit code 2, before anything starts
├── MeterError         joules cannot be read on this machine, and why
├── StorageError       the results cannot be written or read, for longer than can be waited for
│   └── Fenced         another launcher took the results over: nothing more may be written
└── StageError         a stage ended without a result; `state` is what its attempt is recorded as
    ├── MeterLost      the meter of a node died meanwhile
    ├── Diverged       loss became NaN or infinite
    ├── StoppedEarly   other fine-tunings are so far ahead that it is not worth going on
    ├── OutOfMemory    a worker asked for more memory than there is
    ├── Interrupted    the run is being stopped; what can be kept is in a checkpoint
    └── AuditError     a setting did not do what its name says (unquantised layers, lost mask)
"""

from collections.abc import Sequence
from typing import ClassVar, Final

NAMED: Final = 5
"""Layers that a message names before it counts the rest."""


def few(names: Sequence[str]) -> str:
    """The first names of a list that may be long, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


class EnergyawareError(Exception):
    """Base of all errors that this project raises on purpose."""


class InputError(EnergyawareError):
    """Something the user gave cannot be used.

    Args:
        source: the file, folder or option it stands in.
        field: path of the field in it, such as `prunings[1].sparsity`; empty for the whole.
        problem: what is wrong and what is allowed, in one line.
    """

    def __init__(self, source: object, field: str, problem: str) -> None:
        self.source, self.field, self.problem = str(source), field, problem
        super().__init__(": ".join(part for part in (self.source, field, problem) if part))

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        return type(self), (self.source, self.field, self.problem)


class MeterError(EnergyawareError):
    """Joules cannot be read on this machine, and why."""


class StorageError(EnergyawareError):
    """The results cannot be written or read: disk full, storage away. Nothing in them is torn."""


class Fenced(StorageError):
    """Another launcher took the results over: nothing more may be written to them."""


class StageError(EnergyawareError):
    """A stage ended without a result."""

    state: ClassVar[str] = "failed"

    may_pass: ClassVar[bool] = False
    """Whether another attempt may not meet it."""


class MeterLost(StageError):
    """The meter of a node died while it metered the stage: the attempt's joules are not known."""

    may_pass: ClassVar[bool] = True


class Diverged(StageError):
    """The loss, or what a model answers by, became NaN or infinite: there is no model to measure."""

    state: ClassVar[str] = "diverged"


class StoppedEarly(StageError):
    """Other fine-tunings are so far ahead that this one is not worth going on with."""

    state: ClassVar[str] = "stopped"


class OutOfMemory(StageError):
    """A worker asked for more memory than its machine or its GPU has."""

    state: ClassVar[str] = "oom"


class Interrupted(StageError):
    """The run is being stopped: the stage ended before its end, with what can be kept of it in a checkpoint."""

    state: ClassVar[str] = "interrupted"


class AuditError(StageError):
    """A setting did not do what its name says."""

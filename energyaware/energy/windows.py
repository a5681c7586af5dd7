"""Windows over a gang: opened and closed between barriers, by the worker that leads its node."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from energyaware.energy.base import WindowName, Work


class NodeWindows(Protocol):
    """The meter of this worker's node."""

    def open(self, name: WindowName, epoch: int | None, repeat: int | None, from_step: int | None) -> int:
        """Open a window and return its token."""

    def close(self, token: int, requests: int | None) -> None:
        """Close it."""


class GangMeter:
    """The `Meter` of one worker of a gang.

    Args:
        node: the node's meter for the worker that leads its node, None for the others.
    """

    def __init__(self, node: NodeWindows | None) -> None:
        self._node = node

    @contextmanager
    def window(
        self,
        name: WindowName,
        epoch: int | None = None,
        repeat: int | None = None,
        from_step: int | None = None,
    ) -> Iterator[Work]:
        """Measure the block on all nodes of the gang; every rank must enter it."""
        work = Work()
        synchronise()  # what came before must not run into the window
        token = self._node.open(name, epoch, repeat, from_step) if self._node else None
        synchronise()  # nobody starts before every node's window is open
        try:
            yield work
            synchronise()  # asynchronous kernels and slower ranks belong to the window
        finally:
            if self._node and token is not None:
                self._node.close(token, work.requests)


def synchronise() -> None:
    """Wait until every rank is here and its device has finished what it was given."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()

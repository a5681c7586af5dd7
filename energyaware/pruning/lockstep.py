"""Forward passes of several batches that go through a model side by side, halting at modules of one's choice.

Layer-by-layer calibration needs all batches at the entrance of a block before the block may change. What lies between
blocks (masks, position biases, an encoder's output for a decoder) differs from one architecture to the next, so it is
the model's own forward that runs: one ordinary pass per batch, each on a thread of its own. A thread is used as a
coroutine: it runs only while the caller waits for it, and it hands each call of a chosen module to the caller, who
computes it and hands the output back. All heavy arithmetic is thus on the caller's thread.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from energyaware.errors import AuditError

if TYPE_CHECKING:
    from energyaware.pruning.base import Batch

_here: Final = threading.local()
"""`_here.passing` is the pass that the current thread carries out; not set on other threads."""


@dataclass(frozen=True)
class Call:
    """A chosen module was called with these arguments, in the pass of one batch."""

    module: str
    forward: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]

    def compute(self) -> Any:
        """The module's output, with the weights that it has now."""
        return self.forward(*self.arguments, **self.named)


class _Abandoned(BaseException):
    """Unwinds a pass that nobody waits for any more; no `except Exception` of a model may stop it."""


class _Pass:
    """One batch's forward pass."""

    def __init__(self, model: Any, batch: Batch) -> None:
        self._model, self._batch = model, batch
        self._calls: SimpleQueue[Call | BaseException | None] = SimpleQueue()
        self._outputs: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="calibration", daemon=True)

    def start(self) -> Call | None:
        """Run up to the first call of a chosen module; None if the pass has ended before."""
        self._thread.start()
        return self._next_call()

    def resume(self, output: Any) -> Call | None:
        """Hand over the output of the call and run up to the next; None if the pass has ended before."""
        self._outputs.put(output)
        return self._next_call()

    def close(self) -> None:
        """End the pass wherever it is."""
        if self._thread.ident is not None:
            self._outputs.put(_Abandoned())
            self._thread.join()

    def halt(self, call: Call) -> Any:
        """On the pass's own thread: hand the call over and wait for its output."""
        self._calls.put(call)
        output = self._outputs.get()
        if isinstance(output, _Abandoned):
            raise output
        return output

    def _next_call(self) -> Call | None:
        call = self._calls.get()
        if isinstance(call, BaseException):
            raise call
        return call

    def _run(self) -> None:
        import torch

        _here.passing = self
        try:
            if self._model.device.type == "cuda":
                torch.cuda.set_device(self._model.device)  # the current device is the thread's
            with torch.no_grad():  # as is this
                self._model(**self._batch, use_cache=False)
            self._calls.put(None)
        except _Abandoned:
            pass
        except BaseException as error:  # the caller's, whatever it is
            self._calls.put(error)


def in_lockstep(
    model: Any, modules: Mapping[str, Any], batches: Sequence[Batch], arrived: Callable[[str, Sequence[Call]], bool]
) -> None:
    """Take all batches through the model side by side.

    Args:
        model: a transformers model in evaluation mode.
        modules: where to halt, by name; none of them within another.
        batches: keyword arguments of one forward pass each.
        arrived: told each time that all batches have arrived at a module, with the module's name and their calls. It
            may compute the calls and change the module; the passes go on with what the module computes after that.
            The passes end when it returns False.

    Raises:
        AuditError: batches take different ways through the model.
        Exception: whatever the model or `arrived` raises. No thread or hook is left behind then either.
    """
    import torch

    passes = [_Pass(model, batch) for batch in batches]
    with torch.no_grad(), _halting(modules):
        try:
            calls = [one.start() for one in passes]
            while (here := _meeting_point(calls)) and arrived(here[0].module, here):
                del here  # or every batch's old hidden states would live until all have new ones
                for index, one in enumerate(passes):
                    calls[index] = one.resume(calls[index].compute())  # type: ignore[union-attr]
        finally:
            for one in passes:
                one.close()


def _meeting_point(calls: Sequence[Call | None]) -> list[Call]:
    """The calls of all batches at one module; empty when all passes have ended."""
    here = [call for call in calls if call is not None]
    names = sorted({call.module for call in here})
    if len(names) > 1 or 0 < len(here) < len(calls):
        raise AuditError(f"calibration batches take different ways through the model: some are at {', '.join(names)}")
    return here


@contextmanager
def _halting(modules: Mapping[str, Any]) -> Iterator[None]:
    """While open, the modules' calls are handed over by passes that make them."""
    before = {name: vars(module).get("forward") for name, module in modules.items()}
    for name, module in modules.items():
        module.forward = _handing_over(name, module.forward)
    try:
        yield
    finally:
        for name, module in modules.items():
            del module.forward
            if before[name] is not None:  # a forward of the instance's own, as other libraries set it
                module.forward = before[name]


def _handing_over(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def hand_over(*arguments: Any, **named: Any) -> Any:
        passing: _Pass | None = getattr(_here, "passing", None)
        call = Call(name, forward, arguments, named)
        return passing.halt(call) if passing else call.compute()

    return hand_over

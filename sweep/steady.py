"""Telling people how far a run is, without the run depending on it."""

from contextlib import suppress
from typing import Any, TextIO


class Steady:
    """A stream that takes whatever it is given: a closed terminal or a full disk ends no run that writes to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Let go of what can be let go of."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

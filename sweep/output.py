"""Where answers go: to the terminal, to a pipe, or into a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from energyaware.errors import InputError
from sweep.options import show

if TYPE_CHECKING:
    from rich.table import Table


def put(answer: Table | str | bytes, file: Path | None, kept: Iterable[Path] = ()) -> None:
    """Print an answer, or write it to a file; a table as wide as it is.

    Args:
        answer: what `analysis.query.render` returns.
        file: None prints it.
        kept: folders that nothing may be written to.

    Raises:
        InputError: it is binary and would go to a terminal, or the file cannot be written.
    """
    if file is not None:
        _write(answer, file, kept)
    elif not isinstance(answer, bytes):
        show(answer)
    elif sys.stdout.isatty():
        raise InputError("--format", "", "parquet is not for a terminal: name a file with -o, or pipe it")
    else:
        sys.stdout.buffer.write(answer)


def _write(answer: Table | str | bytes, file: Path, kept: Iterable[Path]) -> None:
    if inside := [folder for folder in kept if file.resolve().is_relative_to(folder.resolve())]:
        raise InputError(file, "", f"lies in the results folder {inside[0]}, which a query does not change")
    content = answer if isinstance(answer, bytes) else _text(answer).encode()
    try:
        file.write_bytes(content)
    except OSError as problem:
        raise InputError(file, "", f"cannot be written: {problem.strerror}") from None


def _text(answer: Table | str) -> str:
    if isinstance(answer, str):
        return answer.rstrip("\n") + "\n"
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    console = Console(width=Measurement.get(console, console.options.update(max_width=10**6), answer).maximum)
    with console.capture() as captured:
        console.print(answer)
    return captured.get()

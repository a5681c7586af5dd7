"""Where answers go: to the terminal, to a pipe, or into a file."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from energyaware.errors import InputError
from sweep.options import show

if TYPE_CHECKING:
    from rich.table import Table


def put(answer: Table | str | bytes, file: Path | None, kept: Iterable[Path] = ()) -> None:
    """Print an answer, or save it; a table as wide as it is.

    Args:
        answer: what `analysis.query.render` returns.
        file: None prints it.
        kept: folders that nothing may be written to.

    Raises:
        InputError: it is binary and would go to a terminal, or the file cannot be written.
    """
    if file is not None:
        save(answer if isinstance(answer, bytes) else _text(answer).encode(), file, kept)
    elif not isinstance(answer, bytes):
        show(answer)
    elif sys.stdout.isatty():
        raise InputError("--format", "", "parquet is not for a terminal: name a file with -o, or pipe it")
    else:
        sys.stdout.buffer.write(answer)


def save(content: bytes, file: Path, kept: Iterable[Path]) -> None:
    """Write a file as a whole: whoever reads it meanwhile, or after a full disk, finds what was there before.

    Args:
        content: of the file.
        file: a link is followed. What is no regular file, such as a pipe, is written as it comes.
        kept: folders that nothing may be written to.

    Raises:
        InputError: it lies in one of those, or cannot be written.
    """
    refuse_inside(kept, file)
    try:
        if file.exists() and not file.is_file():
            file.write_bytes(content)
        else:
            _replace(file.resolve(), content)
    except OSError as problem:
        raise InputError("--output", str(file), f"cannot be written: {problem.strerror}") from None


def refuse_inside(kept: Iterable[Path], place: Path) -> None:
    """Keep answers out of the results that they are drawn from.

    Raises:
        InputError: the place is one of these folders, or lies in one.
    """
    for folder in kept:
        if place.resolve().is_relative_to(folder.resolve()):
            raise InputError("--output", str(place), f"lies in the results folder {folder}, which is only read here")


def _replace(file: Path, content: bytes) -> None:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        if file.exists():
            file.open("r+b").close()  # a file that is write-protected stays
            shutil.copymode(file, unfinished)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


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

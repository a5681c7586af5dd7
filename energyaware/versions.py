"""What a stage was measured with: versions of Python, of libraries, and of this project's own code."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

LIBRARIES: Final = ("energyaware", "torch", "transformers", "peft", "bitsandbytes", "deepspeed", "ray", "codecarbon")

CODE: Final = "code"
"""Stands for a hash of the sources of this package, which says more than its version."""


def versions() -> dict[str, str]:
    """By name; a library that is not installed is left out."""
    found = {"python": platform.python_version(), CODE: code_hash()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


@cache
def code_hash() -> str:
    """First 12 hexadecimal digits of the SHA-256 over the sources that a stage's result follows from."""
    root = Path(__file__).parent
    content = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:12]

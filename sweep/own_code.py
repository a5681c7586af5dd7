"""This project's own code, to be shipped to the nodes of a cluster that lack it or have another version of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Final

PACKAGES: Final = ("analysis", "cluster", "energyaware", "sweep")


@contextmanager
def own_code() -> Iterator[tuple[Path, ...]]:
    """Folders that, side by side on a path of Python, are this installation. For the time of the block alone.

    With the packages goes what names their version, or a node's own installation would name its.
    """
    installed = distribution("energyaware")
    packages = [Path(spec.origin).parent for name in PACKAGES if (spec := find_spec(name)) and spec.origin]
    with tempfile.TemporaryDirectory(prefix="energyaware-") as folder:
        about = Path(folder) / f"energyaware-{installed.version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(installed.read_text("METADATA") or "")
        yield (*packages, about)

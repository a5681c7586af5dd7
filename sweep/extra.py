"""Libraries of the extra `run`, which not every installation has."""

from collections.abc import Iterable
from importlib.util import find_spec

from energyaware.errors import InputError


def require_run_extra(libraries: Iterable[str]) -> None:
    """Refuse in one line where a library of the extra `run` is missing.

    Args:
        libraries: names that they are imported by.

    Raises:
        InputError: one is not installed.
    """
    for library in libraries:
        if find_spec(library) is None:
            raise InputError("", "", f"{library} is not installed: pip install 'energyaware[run]'")

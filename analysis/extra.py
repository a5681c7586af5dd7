"""Libraries that not every installation has."""

from collections.abc import Iterable
from importlib.util import find_spec

from energyaware.errors import InputError


def require_report_extra(what: str, libraries: Iterable[str]) -> None:
    """Refuse in one line where a library of the extra `report` is missing.

    Args:
        what: needs them.
        libraries: names that they are imported by.

    Raises:
        InputError: one or more are not installed.
    """
    if missing := [name for name in libraries if find_spec(name) is None]:
        raise InputError(what, "", f"needs {', '.join(missing)}: pip install 'energyaware[report]'")

"""What the Hugging Face hub does not give, as one line without what is nobody's business."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from energyaware.errors import InputError
from energyaware.patience import without_credentials

MOST_TOLD: Final = 200
"""Characters of an error of the hub's client, which writes whole paragraphs."""


@contextmanager
def asking_hub(source: str, field: str, what: str) -> Iterator[None]:
    """Ask the hub's client for something inside the block.

    Its warnings are not printed, and its errors not chained: both repeat the address of the hub, passwords included.

    Args:
        source: repository.
        field: of the sweep file.
        what: is asked for.

    Raises:
        InputError: it is not to be had, for whatever reason.
    """
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        told = without_credentials(" ".join(str(error).split()))[:MOST_TOLD]
        raise InputError(source, field, f"{what} cannot be had: {told}") from None

"""How long storage that is away, or full, is waited for, and what is said when that was not enough."""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from energyaware.errors import StorageError

PATIENCE_S: Final = 120.0
"""Storage that is away for longer stops what needs it."""

FULL_S: Final = 30.0
"""The same for a full disk, or a quota: these pass when somebody cleans up, and seldom by themselves."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0

Trouble = Literal["away", "full", "lasting"]
"""What is the matter: it may come back, it may be emptied, or waiting is of no use."""

AWAY: Final = frozenset(
    code
    for name in (
        "EIO", "ESTALE", "ENOTCONN", "EAGAIN", "EBUSY", "ENOTEMPTY", "EINTR", "ETIMEDOUT", "EREMOTEIO", "ENOLCK",
        "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ENOLINK", "ESHUTDOWN",
    )
    if (code := getattr(errno, name, None)) is not None
)  # fmt: skip
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

Result = TypeVar("Result")


def trouble_of(problem: Exception) -> Trouble | None:
    """What an error of the file system means; None for one that is an answer, such as that there is no such file."""
    if isinstance(problem, FileNotFoundError | FileExistsError) or not isinstance(problem, OSError):
        return None
    if isinstance(problem, TimeoutError | ConnectionError) or problem.errno in AWAY:
        return "away"
    return "full" if problem.errno in FULL else "lasting"


@dataclass(frozen=True)
class Patience:
    """How long trouble with storage is borne.

    Attributes:
        away_s: seconds for storage that does not answer, or answers with errors of its own.
        full_s: seconds for storage that is full.
    """

    away_s: float = PATIENCE_S
    full_s: float = FULL_S

    def until_done(
        self,
        action: Callable[[], Result],
        file: str,
        doing: Literal["read", "written", "removed"],
        trouble: Callable[[Exception], Trouble | None] = trouble_of,
    ) -> Result:
        """Do something with a file, again and again while it meets trouble that may pass. It must bear repetition.

        Args:
            action: what to do.
            file: what a message calls the file.
            doing: what cannot be done to it.
            trouble: tells from an error what is the matter; None lets the error through.

        Raises:
            StorageError: the trouble lasted.
        """
        began_s, pause_s = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                return action()
            except Exception as problem:
                what = trouble(problem)
                if what is None:
                    raise
                left_s = began_s + {"away": self.away_s, "full": self.full_s, "lasting": 0.0}[what] - time.monotonic()
                if left_s <= 0:
                    raise StorageError(f"{file}: cannot be {doing}{self._remedy(what, cause_of(problem))}") from problem
            time.sleep(min(pause_s * random.uniform(0.5, 1.0), left_s))  # noqa: S311
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _remedy(self, what: Trouble, cause: str) -> str:
        if what == "full":
            return f": {cause}; free space and run the same command again"
        if what == "away":
            waited = f", for {self.away_s:g} s" if self.away_s else ""
            return f"{waited}: {cause}; run the same command again when the storage is back"
        return f": {cause}"


PATIENT: Final = Patience()
"""With storage, unless told otherwise."""


def cause_of(problem: Exception) -> str:
    """An error in one line, without what a URL in it may say of passwords."""
    said = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return without_credentials(" ".join(said.split())) or type(problem).__name__


def without_credentials(text: str) -> str:
    """The text with `user:password@` taken out of the URLs in it."""
    return re.sub(r"(?<=://)[^/\s\"']*@", "", text)

"""What an exhausted memory looks like: every allocator says it in its own words, and few with a class of their own."""

from __future__ import annotations

from typing import Final

WORDS: Final = (
    "out of memory",  # CUDA, NCCL, and bitsandbytes, which hands on what CUDA says
    "can't allocate memory",  # torch's allocator for CPUs
    "not enough memory",  # the same, on Windows
    "alloc_failed",  # CUBLAS_STATUS_, CUDNN_STATUS_, CUSPARSE_STATUS_
    "cudaerrormemoryallocation",
)


def shortage_of(problem: BaseException) -> str | None:
    """What an error says of memory that ran out, in one line; None if it is about something else.

    Args:
        problem: a MemoryError, or a RuntimeError, which torch's own class for it is too.
    """
    if isinstance(problem, MemoryError):
        return str(problem).strip().partition("\n")[0] or "out of memory"
    if isinstance(problem, RuntimeError):
        for line in str(problem).splitlines():
            if any(word in line.lower() for word in WORDS):
                return line.strip().rstrip(".")
    return None

"""Memory that answers leave behind is kept for the next ones."""

from __future__ import annotations

from functools import cache

_BLOCK = 16 * 2**20


@cache
def keep_freed() -> None:
    """Make glibc's ``malloc`` keep what is freed, up to 32 MiB at the end of the heap.

    It adapts to the largest block that a process has freed (mallopt(3), on ``M_MMAP_THRESHOLD``). Until there was a
    large one it may give back what every answer leaves, and have the system clear pages for the next: twice the time
    for answers of some hundred KiB. Other allocators are not touched by it.
    """
    bytes(_BLOCK)  # cleared by nobody as nobody looks at it: it takes up no memory, and is freed at once

"""Prepare the process for a run: early imports, file descriptors, and the heap."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

# Descriptors left for files, look-ups of names and imports.
_SPARE = 64
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE})

# Otherwise imported with the first connection or the first answer, when there may be no descriptor left.
_NEEDED_LATER = (
    "concurrent.futures.thread",
    "encodings.idna",
    "msgspec",
    "msgspec.json",
    "simdjson",
    "pybase64",
)

_BLOCK = 16 * 2**20

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def import_all() -> None:
    """Import the modules that a run needs later, as far as they are installed."""
    for name in _NEEDED_LATER:
        with suppress(ImportError):
            import_module(name)


def is_shortage(error: BaseException | None) -> bool:
    """True for an error that says that the process or the system has no file descriptor left."""
    while error is not None:
        inner = getattr(error, "os_error", None)
        if any(isinstance(one, OSError) and _is_shortage(one) for one in (error, inner)):
            return True
        error = error.__cause__
    return False


def _is_shortage(error: OSError) -> bool:
    # A host with several addresses, for which the attempts fail differently: only the text shows their errors.
    words = str(error) if error.errno is None else ""
    return error.errno in _SHORTAGE or any(f"[Errno {number}]" in words for number in _SHORTAGE)


def room_for(connections: int) -> int:
    """The number of connections that there are descriptors for, at most ``connections``.

    Raises the soft limit of this process where that helps and is allowed.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _in_use() + connections + _SPARE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with suppress(ValueError, OSError):  # macOS and sandboxes allow less than the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(1, min(connections, connections - (needed - soft)))


@cache
def retain_heap() -> None:
    """Make glibc's ``malloc`` keep freed memory, up to 32 MiB at the end of the heap, for the next answers.

    Its threshold follows the largest block that a process has freed (mallopt(3), ``M_MMAP_THRESHOLD``). Before that it
    may return the memory of each answer to the system, which then clears pages for the next one: that doubles the time
    of answers of some hundred KiB. Other allocators are not affected.
    """
    bytes(_BLOCK)  # nothing touches these pages, so the block takes no memory; it is freed at once
    # Dask sets this variable for its workers, which turns the adjustment off.
    if "MALLOC_TRIM_THRESHOLD_" in os.environ:
        with suppress(OSError, AttributeError):  # not glibc
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, _BLOCK)
            mallopt(_M_TRIM_THRESHOLD, 2 * _BLOCK)


def _in_use() -> int:
    for directory in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return sum(1 for _ in Path(directory).iterdir())
    return _SPARE

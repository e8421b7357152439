"""File descriptors: a local limit, which is no fault of any chunk or endpoint."""

from __future__ import annotations

import errno
from contextlib import suppress
from importlib import import_module
from pathlib import Path

_SPARE = 64
"""Descriptors left for files, look-ups of names and imports."""

_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE})

# What is otherwise imported with the first connection or the first answer, when there may be no descriptor left.
_NEEDED_LATER = (
    "numpy.ma",
    "concurrent.futures.thread",
    "encodings.idna",
    "msgspec",
    "msgspec.json",
    "simdjson",
    "pybase64",
)


def import_all() -> None:
    """Import what is needed later, as far as it is installed."""
    for name in _NEEDED_LATER:
        with suppress(ImportError):
            import_module(name)


def is_shortage(error: BaseException | None) -> bool:
    """True for an error that says that the process or the system has no file descriptor left."""
    while error is not None:
        inner = getattr(error, "os_error", None)
        if any(isinstance(one, OSError) and one.errno in _SHORTAGE for one in (error, inner)):
            return True
        error = error.__cause__
    return False


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


def _in_use() -> int:
    for directory in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return sum(1 for _ in Path(directory).iterdir())
    return _SPARE

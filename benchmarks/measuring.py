"""What a piece of work costs the process that does it: CPU time, elapsed time and memory.

The CPU time is taken inside the process, around the timed part alone: `time.process_time` counts user and system time
of all threads, so a client that works in threads of its own (Rust, requests) hides nothing. Taken from outside it
would hold half a second of imports, which varies by more than many of the works cost; a baseline measured in another
process would subtract one noise from another.

The peak of memory is ``VmHWM`` of Linux, set back before the work. ``ru_maxrss`` will not do: it survives exec, so
that a child begins with the peak of its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # man 5 proc: "Reset the peak resident set size"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What was spent on a number of units (requests, chunks, rows: the group tells which)."""

    units: int
    cpu: float
    """Seconds of CPU time of all threads of the process."""

    wall: float
    """Seconds."""

    peak: int | None
    """Bytes resident at most, interpreter, imports, input and answers included; None: not measured."""

    beyond: int | None
    """Bytes of the peak that are neither what was there before the work nor the array of answers; None: not known."""


class Memory:
    """What is resident now, so that the peak can be compared with it later."""

    def __init__(self) -> None:
        gc.collect()
        _give_back()
        self._before = _status("VmRSS") if _reset_peak() else None

    def peak(self) -> int:
        """Most bytes resident since this was made (where that cannot be told: ever)."""
        return _status("VmHWM") or _max_rss()

    def beyond(self, answers: int) -> int | None:
        """How far the peak is above what was there before and ``answers`` bytes; None: not known."""
        return None if self._before is None else max(0, self.peak() - self._before - answers)


class Clock:
    """CPU and elapsed seconds since this was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        """CPU seconds of all threads, and elapsed seconds."""
        return time.process_time() - self._cpu, time.perf_counter() - self._wall


def warm_pages(nbytes: int) -> None:
    """Have the system find so many bytes of pages, and let go of them.

    On a virtual machine the first touch of a page may cost many times what a contender does with it, or nothing, as
    chance will have it: whether the host had taken it back. So it is touched before the work, for all alike; but not
    where the peak of memory would then be that of the touching.
    """
    if _reset_peak():
        np.ones(nbytes, np.uint8)


def _give_back() -> None:
    """Give what is free back to the system, where the C library can.

    glibc keeps freed memory resident and serves later requests from it: what the work takes would not be seen.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _status(key: str) -> int | None:
    """A size of ``/proc/self/status`` in bytes; None where there is none."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _max_rss() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024

"""Measure CPU time, elapsed time and memory of this process.

CPU time is measured inside the process, around the timed part alone: `time.process_time` counts user and system time of
all threads, so it includes a client's own threads (Rust, requests). Measured from outside it would include half a
second of imports, which varies by more than many workloads cost, and a baseline from another process would subtract one
noise from another.

Peak memory is Linux's ``VmHWM``, reset before the workload. ``ru_maxrss`` survives exec, so a child would begin with
the peak of its parent.
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
    """The cost of a number of units (requests, chunks or rows; see the group)."""

    units: int
    cpu: float
    """Seconds of CPU time of all threads of the process."""

    wall: float
    """Seconds."""

    peak: int | None
    """Peak of resident bytes, interpreter, imports, input and answers included; None: not measured."""

    beyond: int | None
    """Bytes of the peak above the resident bytes before the workload and the array of answers; None: not known."""


class Memory:
    """Resident memory at its creation, to compare a later peak with."""

    def __init__(self) -> None:
        gc.collect()
        _give_back()
        self._before = _status("VmRSS") if _reset_peak() else None

    def peak(self) -> int:
        """Return the peak of resident bytes since the creation, or ever if the system cannot reset it."""
        return _status("VmHWM") or _max_rss()

    def beyond(self, answers: int) -> int | None:
        """Return the bytes of the peak above the start and ``answers``; None: not known."""
        return None if self._before is None else max(0, self.peak() - self._before - answers)


class Clock:
    """CPU and elapsed seconds since its creation."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Return CPU seconds of all threads, and elapsed seconds."""
        return time.process_time() - self._cpu, time.perf_counter() - self._wall


def warm_pages(nbytes: int) -> None:
    """Touch so many bytes of pages, and free them.

    On a virtual machine the first touch of a page may cost many times more than the work on it, or nothing, by chance:
    the host may have reclaimed it. So every contender's pages are touched before its workload; but not if the peak of
    memory cannot be reset afterwards.
    """
    if _reset_peak():
        np.ones(nbytes, np.uint8)


def _give_back() -> None:
    """Return free memory to the system, if the C library can.

    glibc keeps freed memory resident and reuses it, which would hide the memory of the workload.
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
    """Return a size of ``/proc/self/status`` in bytes; None if the system has no such file."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _max_rss() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024

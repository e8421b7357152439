"""Run one entry once, in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.child import Task
from benchmarks.measuring import Cost
from benchmarks.place import ROOT, environment

if TYPE_CHECKING:
    from benchmarks.groups import Entry


class Failed(Exception):  # noqa: N818 - it says what happened to the entry
    """The process ended badly, or its answers were wrong."""


def run(entry: Entry, origin: str) -> Cost:
    """Measure ``entry``. Raises `Failed` with the last line of the process's errors."""
    if entry.command:
        return _command(tuple(word.replace("{origin}", origin) for word in entry.command))
    return _task(entry, origin)


def _task(entry: Entry, origin: str) -> Cost:
    task = Task(
        target=entry.target, workload=entry.workload, origin=origin, requests=entry.requests,
        uvloop=entry.uvloop, options=entry.options,
    )  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.child", json.dumps(asdict(task))]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(_last_line(done.stderr) or f"exit code {done.returncode}")
    return Cost(**json.loads(done.stdout))


def _command(command: tuple[str, ...]) -> Cost:
    """Measure the whole life of a process, from outside: its start is the subject."""
    program, *arguments = command
    executable = sys.executable if program == "python" else str(Path(sys.executable).parent / program)
    begun = time.perf_counter()
    try:
        process = subprocess.Popen(
            [executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise Failed(f"there is no {executable}: install fanout into this environment") from None
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)  # wait4 has reaped the process, so Popen must not
    if process.returncode != 0:
        raise Failed(f"exit code {process.returncode}")
    return Cost(units=1, cpu=usage.ru_utime + usage.ru_stime, wall=wall, peak=None, beyond=None)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""

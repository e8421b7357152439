"""The processes of these tests: a server that lives on, and a nursery of runs that are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.durability.work import Kind

ROOT = Path(__file__).absolute().parents[2]


@contextmanager
def python(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``python -m module``, which ends when its stdin does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", module, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment) as process:
        yield process
        process.stdin.close()


@dataclass
class Model:
    """The server, seen from a test."""

    url: str

    def asked(self, run: str) -> set[int]:
        """The rows that a run has asked for."""
        with urllib.request.urlopen(self.url) as answer:
            asked = json.load(answer).get(run, [])
        return {row for start, stop in asked for row in range(start, stop)}

    def wait_for(self, run: str, requests: int) -> None:
        """Wait until a run has sent so many requests."""
        with urllib.request.urlopen(urllib.request.Request(self.url, headers={"x-run": run, "x-wait": str(requests)})):
            pass


@contextmanager
def model(seconds: float = 0.0) -> Iterator[Model]:
    with python("tests.durability.server", str(seconds)) as process:
        yield Model(f"http://127.0.0.1:{int(process.stdout.readline())}/double")


class Nursery:
    """Runs in processes of their own, at the price of a fork."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, folder: Path, kind: Kind, run: str, *, traced: bool = False) -> int:
        """Start a run; returns its process id. A traced one waits for its tracer."""
        order = {"folder": str(folder), "kind": asdict(kind), "run": run, "traced": traced}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def ended(self) -> int:
        """Wait for the end of the run; returns its exit code, minus the signal that has killed it."""
        return os.waitstatus_to_exitcode(int(self._process.stdout.readline()))


@contextmanager
def nursery(server: Model) -> Iterator[Nursery]:
    with python("tests.durability.zygote", server.url) as process:
        assert process.stdout.readline() == "ready\n"
        yield Nursery(process)

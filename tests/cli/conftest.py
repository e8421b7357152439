"""The command line in this process, and as a process of its own where signals, pipes or its end matter."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import fanout
from fanout.cli import main
from fanout.testing import Background
from tests.jobs import doubler, doubling, write_job

__all__ = ["doubler", "write_job"]

ROOT = Path(__file__).absolute().parents[2]
INSTALLED = Path(fanout.__file__).absolute().parents[1]


@dataclass
class Ended:
    """The end of a command."""

    code: int | None
    out: str
    err: str


@pytest.fixture
def command(tmp_path, monkeypatch, capfd, shared_local):
    """Runs ``fanout`` to its end in this process, in the temporary folder."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return Ended(end.value.code, *capfd.readouterr())

    return command


@pytest.fixture
def doubler_aside():
    """The server on a thread of its own, since a command in this process takes the loop of this one."""
    with Background(doubling()) as model:
        yield model


@pytest.fixture
def start(tmp_path):
    """Starts ``fanout`` with some arguments, in the temporary folder."""

    async def start(*arguments: object, **extra: object) -> asyncio.subprocess.Process:
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
        # Not the tests' own terminal, if they have one; and found from whatever folder.
        environment = {**os.environ, "PYTHONPATH": str(INSTALLED), "PYTHONWARNINGS": "error"}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fanout", *map(str, arguments), cwd=tmp_path, env=environment, **{**pipes, **extra}
        )

    return start


@pytest.fixture
def run(start):
    """Runs ``fanout`` to its end, as a process."""

    async def run(*arguments: object, **extra: object) -> Ended:
        return await ended(await start(*arguments, **extra))

    return run


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for a process to end."""
    out, err = await asyncio.wait_for(process.communicate(), 50)
    return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())

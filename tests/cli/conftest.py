"""The command line as a process of its own, beside a server in this one."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import fanout
from tests.job.conftest import doubler, write_job

__all__ = ["doubler", "write_job"]

ROOT = Path(fanout.__file__).absolute().parents[1]


@dataclass
class Ended:
    """How a process ended."""

    code: int | None
    out: str
    err: str


@pytest.fixture
def start(tmp_path):
    """Starts ``fanout`` with some arguments, in the temporary folder."""

    async def start(*arguments: object, **extra: object) -> asyncio.subprocess.Process:
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
        # Not the tests' own terminal, if they have one; and found from whatever folder.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fanout", *map(str, arguments), cwd=tmp_path, env=environment, **{**pipes, **extra}
        )

    return start


@pytest.fixture
def run(start):
    """Runs ``fanout`` to its end."""

    async def run(*arguments: object, **extra: object) -> Ended:
        return await ended(await start(*arguments, **extra))

    return run


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for a process to end."""
    out, err = await asyncio.wait_for(process.communicate(), 20)
    return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())

"""The model server behind ``local://NAME``, as a child process that cannot outlive its parent.

``python -m fanout.serving.local NAME`` is the child: it serves the model on a free port of the loopback address, and
writes one line of JSON to stdout, ``{"url": ..., "model": ...}`` or ``{"error": ...}``. With ``--stdin-guard`` it ends
when its stdin closes, which the kernel does for a parent that is killed, and leaves Ctrl-C to the parent.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

from fanout.errors import ConfigError

_STARTED_WITHIN = 30.0
_STOPPED_WITHIN = 5.0

# Seconds in which the child ends by itself: shorter than the parent's patience, so that it need not kill.
_GRACE = 2.0


class LocalServer:
    """One model server on a loopback port, in a process of its own.

    User code so never blocks the client's loop. The child ends when its stdin closes: by `stop`, or by the kernel when
    this process is killed. The prints and tracebacks of the user's code appear on this process's stderr.

    Args:
        name: ``digits``, ``echo`` or ``package.module:function``, imported from the current directory.
    """

    def __init__(self, name: str) -> None:
        self.model = name
        """The name of the model in the paths of requests."""

        self.url = ""
        """Base URL while the server runs, such as ``http://127.0.0.1:43210``; else empty."""

        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Start the server, and return its base URL once it takes requests.

        Raises `ConfigError` for a model that cannot be served, or is not within 30 s.
        """
        assert self._process is None, "this server is running"
        self._process = await asyncio.create_subprocess_exec(
            # -P: a fanout.py or random.py in the user's directory must not hide ours while the server is imported.
            *(sys.executable, "-P", "-m", "fanout.serving.local", "--stdin-guard", "--", self.model),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_environment(),
        )
        try:
            self.url = await self._announced(self._process)
        except BaseException:
            # A start that fails or is cancelled leaves no process behind.
            await self.stop()
            raise
        return self.url

    async def stop(self) -> None:
        """End the server: it gets 5 s to do so itself, then it is killed. Without effect when it does not run."""
        process, self._process, self.url = self._process, None, ""
        if process is None:
            return
        try:
            async with asyncio.timeout(_STOPPED_WITHIN):
                await _ended(process)
        except TimeoutError:
            await _killed(process)
        except asyncio.CancelledError:
            await _killed(process)
            raise

    @property
    def pid(self) -> int | None:
        """Process id of the server while it runs."""
        return None if self._process is None else self._process.pid

    async def _announced(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_STARTED_WITHIN):
                line = await process.stdout.readline()
        except TimeoutError:
            message = f"local://{self.model} was not ready within {_STARTED_WITHIN:g} s"
            raise ConfigError(f"{message}: does its module do much work when imported?", key="url") from None
        if not line:
            raise ConfigError(f"local://{self.model} ended before it was ready: see stderr", key="url")
        announced: dict[str, str] = json.loads(line)
        if "error" in announced:
            raise ConfigError(f"local://{self.model}: {announced['error']}", key="url")
        return announced["url"]

    def __repr__(self) -> str:
        return f"<LocalServer {self.model!r} {self.url or 'stopped'}>"


def _environment() -> dict[str, str]:
    """The child finds the modules that this process finds; BLAS gets one thread, as the client needs the others."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**threads, **os.environ, "PYTHONPATH": path}


async def _ended(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    # To its end, as asyncio frees the transport (and is silent about it) only once both are done.
    await process.stdout.read()
    await process.wait()


async def _killed(process: asyncio.subprocess.Process) -> None:
    # It may have ended since it was looked at.
    with suppress(ProcessLookupError):
        process.kill()
    await _ended(process)


def main() -> int:
    """Serve until the process is asked to end; the exit code is 2 when the model cannot be served."""
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="python -m fanout.serving.local", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="digits, echo or package.module:function")
    parser.add_argument("--stdin-guard", action="store_true", help="end when stdin closes, and ignore SIGINT")
    arguments = parser.parse_args()
    if arguments.stdin_guard:
        # Ctrl-C goes to the whole process group, and the parent decides whether to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    stdout = _announcements()
    with suppress(KeyboardInterrupt):
        return asyncio.run(_serve(arguments.name, stdout, guarded=arguments.stdin_guard))
    return 130


async def _serve(name: str, stdout: int, *, guarded: bool) -> int:
    serving = asyncio.current_task()
    assert serving is not None
    if guarded:
        # Before the model is loaded: the user's module may take long, or for ever.
        Thread(target=_guard, args=(asyncio.get_running_loop(), serving), daemon=True).start()
    from fanout.serving.app import serve

    try:
        await serve(name, port=0, on_ready=lambda url: _announce(stdout, {"url": url, "model": name}))
    except ConfigError as error:
        _announce(stdout, {"error": str(error)})
        return 2
    except asyncio.CancelledError:
        if not guarded:
            raise
    return 0


def _announcements() -> int:
    """A copy of stdout, for the announcement alone.

    From here on the prints of the user's code go to stderr: the parent reads one line of the pipe, which could fill up.
    """
    stdout = os.dup(1)
    os.dup2(2, 1)
    return stdout


def _announce(stdout: int, message: dict[str, str]) -> None:
    with suppress(BrokenPipeError):  # the parent is gone, and the guard about to notice
        os.write(stdout, json.dumps(message).encode() + b"\n")
    os.close(stdout)


def _guard(loop: asyncio.AbstractEventLoop, serving: asyncio.Task[int]) -> None:
    # Not sys.stdin: a thread that waits inside it breaks the interpreter's shutdown.
    while os.read(0, 4096):
        pass
    with suppress(RuntimeError):  # the loop is closed: the process is about to end by itself
        loop.call_soon_threadsafe(serving.cancel)
    time.sleep(_GRACE)
    os._exit(0)  # the user's function hangs, and the interpreter would wait for its thread


if __name__ == "__main__":
    sys.exit(main())

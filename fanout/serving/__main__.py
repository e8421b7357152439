"""``python -m fanout.serving NAME``: the model server as a child process, on a free port of the loopback address.

Writes one line of JSON to stdout, ``{"url": ..., "model": ...}`` or ``{"error": ...}``. With ``--stdin-guard`` it ends
when its stdin closes, which the kernel does for a parent that is killed, and leaves Ctrl-C to the parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from argparse import ArgumentParser
from contextlib import suppress
from json import dumps
from threading import Thread
from time import sleep

from fanout.errors import ConfigError

# Shorter than the parent's patience, so that it need not kill.
_GRACE = 2.0


def main() -> int:
    """Serve until the process is asked to end; the exit code is 2 when the model cannot be served."""
    parser = ArgumentParser(prog="python -m fanout.serving", description=__doc__)
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
        os.write(stdout, dumps(message).encode() + b"\n")
    os.close(stdout)


def _guard(loop: asyncio.AbstractEventLoop, serving: asyncio.Task[int]) -> None:
    # Not sys.stdin: a thread that waits inside it breaks the interpreter's shutdown.
    while os.read(0, 4096):
        pass
    with suppress(RuntimeError):  # the loop is closed: the process is about to end by itself
        loop.call_soon_threadsafe(serving.cancel)
    sleep(_GRACE)
    os._exit(0)  # the user's function hangs, and the interpreter would wait for its thread


if __name__ == "__main__":
    sys.exit(main())

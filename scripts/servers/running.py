"""A server as a child process, which ends with everything that it started."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from catalog import ADDRESS, Ports

if TYPE_CHECKING:
    from catalog import Server

_READY_WITHIN = 180.0
_GRACE = 10.0
_POLL = 0.1
_PR_SET_CHILD_SUBREAPER = 36


class FailedToStartError(Exception):
    """The server ended, or did not answer, before it was ready."""


class Running:
    """A server between its start and its end.

    Triton and MLServer start processes of their own, which outlive them when they are killed. On Linux this process
    adopts such orphans, so that all of them stay below it and can be found.
    """

    def __init__(self, server: Server, python: Path, port: int) -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        ports = _free_ports(port)
        self.url = f"http://{ADDRESS}:{ports.http}"
        self._ready = self.url + server.ready
        # In a session of its own, Ctrl-C does not reach it. Its output is a log, because stdout is for the URL.
        self._process = subprocess.Popen(
            server.command(python, ports),
            env=os.environ | server.environment(python, ports),
            cwd=server.folder,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        """Return once it takes requests. Raises `FailedToStartError`."""
        end = time.monotonic() + _READY_WITHIN
        while not _answers(self._ready):
            if (code := self._process.poll()) is not None:
                raise FailedToStartError(f"the server ended with code {code} before it was ready")
            if time.monotonic() > end:
                raise FailedToStartError(f"the server was not ready within {_READY_WITHIN:g} s")
            time.sleep(_POLL)

    def wait(self) -> int:
        """Wait until it ends by itself, and return its exit code."""
        return self._process.wait()

    def stop(self) -> None:
        """End it and all that it started, with SIGTERM, and after 10 s with SIGKILL."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        end = time.monotonic() + _GRACE
        while self._alive() and time.monotonic() < end:
            time.sleep(_POLL)
        while alive := self._alive():
            for pid in alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL)

    def _alive(self) -> list[int]:
        """Return the processes below this one, without those that have ended."""
        self._process.poll()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return _below(os.getpid()) or ([] if self._process.poll() is not None else [self._process.pid])


def _free_ports(http: int) -> Ports:
    with ExitStack() as stack:
        numbers = []
        for wanted in (http, 0, 0):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((ADDRESS, wanted))
            numbers.append(sock.getsockname()[1])
    return Ports(*numbers)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - a URL of our own
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _below(root: int) -> list[int]:
    """Return the ids of the processes below ``root``, from /proc; none on a system without it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # A process may end in the meantime.
        with suppress(OSError):
            fields = stat.read_text("utf-8", "replace").rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    below: list[int] = []
    level = {root}
    while level := {pid for pid, parent in parents.items() if parent in level}:
        below += level
    return below

"""Tokens that a command prints."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fanout._headers import require_header_name
from fanout.auth.base import Auth, Credentials, bearer, on_daemon_thread, require_secret
from fanout.errors import ConfigError, CredentialsError
from fanout.options import checks_options
from fanout.settings import require_positive

# Bytes that a token may have.
_MOST_BYTES = 2**16


@checks_options
@dataclass(frozen=True, kw_only=True)
class CommandAuth(Auth):
    """A token that a command prints, such as ``gcloud auth print-access-token``; it may run for 30 s.

    The command is run without a shell, when the first request is sent and when the token has expired. Its output is
    neither logged nor shown.
    """

    command: tuple[str, ...] = field(repr=False)
    """The program and its arguments. No shell reads them."""

    ttl: float | None = None
    """Seconds for which a token is valid. If not given, it is used until the server refuses it."""

    header: str | None = None
    """Name of the header field for the token; if not given, it is sent as Authorization: Bearer TOKEN."""

    cwd: str | None = None
    """Folder in which the command runs; in a job file relative to its folder, which is the default."""

    def __post_init__(self) -> None:
        command: Any = self.command
        if isinstance(command, str) or not command or not all(isinstance(part, str) and part for part in command):
            problem = "command must be a list of texts that are not empty, such as"
            raise ConfigError(f'{problem} ["gcloud", "auth", "print-access-token"]', key="command")
        if any("\0" in part for part in command):
            raise ConfigError("command holds a null character", key="command")
        object.__setattr__(self, "command", tuple(command))  # a list is accepted, and frozen with the rest
        require_positive("ttl", self.ttl)
        if self.header is not None:
            require_header_name(self.header, "header")

    async def credentials(self) -> Credentials:
        """Run the command."""
        process = self._start()
        try:
            output = await on_daemon_thread(_read, process)
        finally:
            # The wait was cancelled before the thread has seen the end of the output. The command itself may have ended
            # while programs that it started keep its output open; the thread ends with the last of them.
            if process.returncode is None:
                _kill(process)
        token = self._token(output, process.returncode)
        headers = bearer(token) if self.header is None else {self.header: token}
        return Credentials(headers=headers, lifetime=self.ttl)

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - the user's own command
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a program may print secrets there, too
                cwd=self.cwd,
                start_new_session=True,
            )
        except OSError as error:
            where = f" in {self.cwd}" if self.cwd else ""
            problem = f"the command {self.command[0]!r} cannot be run{where}: {error.strerror}"
            raise ConfigError(problem, key="auth.command") from None

    def _token(self, output: bytes, status: int) -> str:
        shown = f"the command {self.command[0]!r}"
        if len(output) > _MOST_BYTES:
            raise CredentialsError(f"{shown} prints more than a token", retryable=False)
        if status:
            ended = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
            raise CredentialsError(f"{shown} {ended}; run it by hand to see its messages")
        token = output.decode("utf-8", "replace").strip()
        try:
            require_secret("token", token)
        except ConfigError:
            problem = "printed nothing" if not token else "printed more than one line, or a control character"
            raise CredentialsError(f"{shown} {problem}, and no token", retryable=False) from None
        return token


def _read(process: subprocess.Popen[bytes]) -> bytes:
    """Return the output of a process, but no more than a token may have. Blocks until the process ends."""
    assert process.stdout is not None
    with process.stdout as stdout:
        output = stdout.read(_MOST_BYTES + 1)
    if len(output) > _MOST_BYTES:
        _kill(process)
    process.wait()
    return output


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, which may keep its output open."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)

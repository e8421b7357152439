"""Tokens that a command prints: real processes, which are few and short."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import numpy as np
import pytest

from fanout import Client, CommandAuth, ConfigError, RunStopped
from fanout.auth import authenticator
from fanout.testing import MockEndpoint
from tests.support import Plain

X = np.arange(12.0).reshape(4, 3)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def sent(**options: Any) -> list[dict[str, str]]:
    """The header fields of the requests of a run with these options of the command."""
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=CommandAuth(**options)) as client:
            assert np.array_equal(await client.map(X), X * 2)
    return [dict(request.headers) for request in mock.requests]


@pytest.mark.parametrize("printed", ["a-token", "a-token\\n", "  a-token\\r\\n\\n"])
async def test_the_output_is_the_token(printed):
    (headers,) = await sent(command=["printf", printed])
    assert headers["Authorization"] == "Bearer a-token"


async def test_the_token_may_have_a_field_of_its_own():
    (headers,) = await sent(command=["printf", "a-token"], header="X-Token")
    assert headers["X-Token"] == "a-token"
    assert "Authorization" not in headers


async def test_no_shell_reads_the_command(tmp_path):
    (headers,) = await sent(command=["printf", "%s", f"$HOME;touch {tmp_path}/x|`id`"])
    assert headers["Authorization"] == f"Bearer $HOME;touch {tmp_path}/x|`id`"
    assert not (tmp_path / "x").exists()


async def test_a_command_gets_no_input_and_runs_in_its_folder(tmp_path):
    (tmp_path / "token.sh").write_text("#!/bin/sh\ncat; pwd")
    (tmp_path / "token.sh").chmod(0o755)
    (headers,) = await sent(command=["./token.sh"], cwd=str(tmp_path))
    assert os.path.samefile(headers["Authorization"].removeprefix("Bearer "), tmp_path)  # noqa: PTH121, ASYNC240


FAILING = {
    "exit status": (python("print('a-secret'); raise SystemExit('another-secret')"), "ended with exit status 1"),
    "signal": (python("import os; print('a-secret', flush=True); os.kill(os.getpid(), 9)"), "was killed by signal 9"),
    "nothing": (python("pass"), "printed nothing, and no token"),
    "two lines": (["printf", "a-secret\\nanother-secret"], "printed more than one line"),
    "a page": (python("print('a-secret' * 10000)"), "prints more than a token"),
    "without an end": (["sh", "-c", "yes a-secret"], "prints more than a token"),
}


@pytest.mark.parametrize(("command", "message"), FAILING.values(), ids=FAILING)
async def test_a_failure_stops_the_run_and_shows_no_output(command, message, capfd, caplog, monkeypatch):
    monkeypatch.setattr(authenticator, "_FIRST_WAIT", 0.01)
    caplog.set_level("DEBUG")
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=CommandAuth(command=command)) as client:
            with pytest.raises(RunStopped, match=message) as caught:
                await client.map(X)
    assert caught.value.kind == "refused"
    assert not mock.requests
    shown = str(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert "a-secret" not in shown
    assert "another-secret" not in shown


@pytest.mark.parametrize("rest", ["sleep 60", "exit 0"])
async def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path, monkeypatch, rest):
    monkeypatch.setattr(authenticator, "_TIMEOUT", 0.3)
    monkeypatch.setattr(authenticator, "_TRIES_AT_FIRST", 1)
    # Where a grandchild lives on, its end of the pipe never closes.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = f"(exec 3>{fifo}; sleep 60) & {rest}"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Plain, auth=CommandAuth(command=["sh", "-c", script])) as client:
            with pytest.raises(RunStopped, match=r"no credentials were obtained within 0.3 s"):
                await client.map(X)
    os.set_blocking(reader, True)
    assert await asyncio.to_thread(os.read, reader, 1) == b""
    os.close(reader)


MISTAKES = {
    "a text": (
        {"command": "gcloud auth"},
        r"^command must be a list of texts that are not empty, such as \[\"gcloud\"",
    ),
    "empty": ({"command": []}, "^command must be a list of texts"),
    "a number": ({"command": ["x", 3]}, "^command must be a list of texts"),
    "null": ({"command": ["x", "a\0b"]}, "^command holds a null character"),
    "ttl": ({"command": ["x"], "ttl": 0}, "^ttl must be a finite number above 0"),
    "header": ({"command": ["x"], "header": "a b"}, "^header 'a b' is no valid name"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_options_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        CommandAuth(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": ["no-such-program-here"]}, "'no-such-program-here' cannot be run: No such file or directory"),
        ({"command": ["true"], "cwd": "/no/such/folder"}, "cannot be run in /no/such/folder"),
    ],
)
async def test_a_program_that_is_not_there_is_a_configuration_error(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        await sent(**options)
    assert caught.value.key == "auth.command"


def test_the_repr_shows_no_argument():
    assert "a-secret" not in repr(CommandAuth(command=["printf", "a-secret"]))

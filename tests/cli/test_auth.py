"""Credentials of a job on the command line: expiry, commands, and what never runs them or shows them."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
from aiohttp import web

from fanout.auth import authenticator
from fanout.testing import Background
from tests.jobs import JOB, served

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "Canary-7f3a9c"


class Gate:
    """Doubles for requests with a token that ``accepts`` takes, and repeats the header of all others.

    It is also a server of tokens: each lasts for ``lives`` requests.
    """

    def __init__(self) -> None:
        self.issued = 0
        self.lives = 5
        self.left = 0
        self.paths: Counter[str] = Counter()
        self.pauses: list[int] = []

    def accepts(self, token: str) -> bool:
        self.left -= 1
        return self.left >= 0 and token == f"Bearer {CANARY}-{self.issued}"

    async def handle(self, request: web.Request) -> web.Response:
        self.paths[request.path] += 1
        if request.path == "/token":
            self.issued, self.left = self.issued + 1, self.lives
            return web.json_response({"access_token": f"{CANARY}-{self.issued}", "expires_in": 3600})
        token = request.headers.get("Authorization", "")
        if not self.accepts(token):
            return web.json_response({"error": {"message": f"{token} is refused"}}, status=401)
        if self.pauses:
            return web.Response(status=self.pauses.pop(), headers={"Retry-After": "1"})
        rows = (await request.json())["instances"]
        if -1.0 in rows:
            return web.Response(status=422, text=f"{token} sends a bad row")
        return web.json_response({"predictions": [2 * row for row in rows]})


@asynccontextmanager
async def gating():
    gate = Gate()
    async with served(gate.handle) as gate.url:  # type: ignore[attr-defined]
        yield gate


@pytest.fixture
def gate():
    with Background(gating()) as gate:
        yield gate


@pytest.fixture
def prepare(tmp_path: Path, gate, monkeypatch):
    """Write a job with these lines in the table [auth], and its input."""
    monkeypatch.setenv("SECRET", f"{CANARY}-secret")
    monkeypatch.setattr(authenticator, "_FIRST_WAIT", 0.01)

    def prepare(table: str, rows: np.ndarray | None = None, more: str = "") -> Path:
        np.save(tmp_path / "x.npy", np.arange(40.0) if rows is None else rows)
        text = JOB.replace("[codec]", f"[limits]\nconcurrency = 1\n{more}\n[auth]\n{table}\n\n[codec]")
        (tmp_path / "job.toml").write_text(text.replace("{url}", f"{gate.url}/predict"), "utf-8")
        return tmp_path

    return prepare


def oauth2(gate) -> str:
    secret = 'client_id = "me"\nclient_secret = "${SECRET}"'
    return f'type = "oauth2"\ntoken_url = "{gate.url}/token"\n{secret}'


def printing(folder: Path, code: str) -> str:
    """Lines of a command that runs ``code``, and counts its runs in a file beside the job."""
    (folder / "token.py").write_text(f"open('runs', 'a').write('x')\n{code}", "utf-8")
    return f'type = "command"\ncommand = [{json.dumps(sys.executable)}, "token.py"]'


def assert_secret_nowhere(folder: Path, *ended: object) -> None:
    assert CANARY not in repr(ended)
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("job.toml", "token.py", "x.npy"):
            assert CANARY.encode() not in path.read_bytes(), path


def test_tokens_that_last_for_a_few_requests_cost_no_row(command, prepare, gate, tmp_path):
    prepare(oauth2(gate), np.where(np.arange(40) == 30, -1.0, np.arange(40.0)))
    ended = command("run", "job.toml", "--json", "--record", "run.recording")
    summary = json.loads(ended.out)
    assert (summary["ok"], summary["failed"]) == (39, 1)
    assert gate.issued >= 3
    replayed = command("run", "job.toml", "--json", "--replay", "run.recording")
    assert json.loads(replayed.out)["ok"] == 39
    status = command("status", "job.toml", "--json")
    assert_secret_nowhere(tmp_path, ended, replayed, status)


def test_a_check_that_shows_the_exchange_shows_no_credentials(command, prepare, gate, tmp_path):
    prepare(oauth2(gate))
    shown = command("check", "job.toml", "--show")
    assert shown.code == 0
    assert "POST" in shown.out + shown.err
    gate.lives = 0
    refused = command("check", "job.toml", "--show")
    assert_secret_nowhere(tmp_path, shown, refused, command("run", "job.toml"), command("check", "job.toml", "--json"))


def test_a_refused_client_stops_the_run_and_another_secret_resumes_it(command, prepare, gate, monkeypatch):
    prepare(oauth2(gate).replace("/token", "/tokn"))
    stopped = command("run", "job.toml")
    assert stopped.code == 3
    assert f"the token server {gate.url}/tokn answered HTTP 401" in stopped.err
    assert "Traceback" not in stopped.err
    monkeypatch.setenv("SECRET", "another-secret")
    prepare(oauth2(gate))
    assert command("run", "job.toml").code == 0


def test_a_command_runs_beside_the_job_file(command, prepare, gate, tmp_path):
    gate.accepts = lambda token: token.startswith(f"Bearer {CANARY}")
    folder = prepare(printing(tmp_path, f"print('{CANARY}-token')"))
    ended = command("run", f"../{folder.name}/job.toml", "--json")
    assert json.loads(ended.out)["ok"] == 40
    assert (tmp_path / "runs").read_text() == "x"
    assert_secret_nowhere(tmp_path, ended)


def test_only_commands_that_send_run_the_command_of_a_job(command, prepare, gate, tmp_path):
    prepare(printing(tmp_path, f"print('{CANARY}')"), more="\n[mock]\nshape = []\n")
    for arguments in (["status"], ["check", "--dry-run"], ["run", "--mock"]):
        ended = command(arguments[0], "job.toml", *arguments[1:])
        assert ended.code == 0, ended
    assert command("schema").code == 0
    assert not (tmp_path / "runs").exists()
    assert not gate.paths


def test_a_command_that_fails_stops_the_run_without_its_output(command, prepare, gate, tmp_path):
    prepare(printing(tmp_path, f"print('{CANARY}'); raise SystemExit('{CANARY}')"))
    ended = command("run", "job.toml")
    assert ended.code == 3
    assert "ended with exit status 1; run it by hand to see its messages" in ended.err
    assert_secret_nowhere(tmp_path, ended)


MISTAKES = {
    "no program": ('type = "command"\ncommand = ["no-program"]', "auth.command: the command 'no-program' cannot"),
    "a text": ('type = "command"\ncommand = "gcloud"', "auth.command: must be a list of strings, not a string"),
    "empty": ('type = "command"\ncommand = []', "auth.command: must be a list of texts that are not empty"),
    "ttl": ('type = "command"\ncommand = ["x"]\nttl = "1h"', "auth.ttl: must be a number, not a string"),
    "choice": (
        'type = "oauth2"\ntoken_url = "https://h"\nclient_id = "x"\nclient_secret = "y"\nclient_auth = "form"',
        "auth.client_auth: ",
    ),
    "field": ('type = "oauth2"\ntoken_url = "https://h"\nclient_id = "x"', "auth.client_secret: is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("table", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_the_file_and_the_key(command, prepare, table, message):
    prepare(table)
    ended = command("run", "job.toml")
    assert ended.code == 2
    assert f"job.toml: {message}" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("ttl", ["", "ttl = 0.7"])
def test_a_token_that_expires_every_700_ms_costs_no_row(command, prepare, gate, tmp_path, ttl):
    def accepts(token: str) -> bool:
        time.sleep(0.05)
        return time.time() - float(token.rpartition("-")[2]) <= 0.7

    gate.accepts, gate.pauses = accepts, [503, 429, 503, 429]
    code = f"import time; print('{CANARY}', time.time(), sep='-')"
    prepare(f"{printing(tmp_path, code)}\n{ttl}", np.arange(200.0))
    ended = command("run", "job.toml", "--json", "--set", "limits.concurrency=4", "--set", "retry.max_attempts=3")
    summary = json.loads(ended.out)
    assert (summary["ok"], summary["failed"]) == (200, 0)
    assert len((tmp_path / "runs").read_text()) >= 3
    assert_secret_nowhere(tmp_path, ended)

"""A secret set anywhere in a job appears in no output and no file of a command, even if the server repeats it."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus

import numpy as np
import pytest
from aiohttp import web

from fanout.testing import Background
from tests.jobs import JOB, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CANARY = "Canary-7f3a9c"
ODD = 'Kanarie "ünd" a+b/c&d'
DEFAULT = "${UNSET:-" + CANARY + "}"
PAIR = b64encode(f"someone:{CANARY}".encode()).decode()


@dataclass
class Parrot:
    """Repeats every part of the request in its response, in several spellings; it refuses rows below 0."""

    url: str = ""
    status: int = 200
    valid: bool = True

    async def handle(self, request: web.Request) -> web.Response:
        received = await _texts_of(request)
        # Error messages show the beginning of a response only, so the shortest secrets come first.
        secret_first = sorted((one for one in received if CANARY in one or PAIR in one or "Kanarie" in one), key=len)
        message = "; ".join(
            f"{one.upper()} {one.lower()} {quote(one, safe='')} {one} {json.dumps(one)} {one!r}"
            for one in dict.fromkeys([*secret_first, *received])
        )
        headers = {"X-RateLimit-Owner": " ".join(received).encode("ascii", "replace").decode(), "X-Request-Cost": "1"}
        if self.status != 200:
            return web.json_response({"error": {"message": message}, "usage": {CANARY: 1}}, status=self.status)
        rows = json.loads(await request.read())
        while isinstance(rows, dict):
            rows = next(value for value in rows.values() if isinstance(value, dict | list))
        if any(row < 0 for row in rows):
            return web.Response(status=422, text=f"bad row: {message}", headers=headers)
        answer = [2 * row for row in rows]
        if not self.valid:
            return web.Response(text=f"sorry, {message}", headers=headers)
        return web.json_response({"predictions": answer, "sent": message}, headers=headers)


async def _texts_of(request: web.Request) -> list[str]:
    received = [request.path_qs, request.path, *request.query.values(), (await request.read()).decode()]
    for name, value in request.headers.items():
        received += [value, value.rpartition(" ")[2]]
        if "authorization" in name.lower() and " " in value:
            received += _decoded(value.partition(" ")[2])
    received += request.cookies.values()
    received += re.findall("Kanarie[^{}]*d", received[-1]) + re.findall(f"{CANARY}|{PAIR}", " ".join(received))
    return [*received, *map(unquote_plus, received)]


def _decoded(credentials: str) -> list[str]:
    try:
        pair = b64decode(credentials, validate=True).decode()
    except ValueError:
        return []
    return [pair, *pair.split(":")]


@asynccontextmanager
async def parroting() -> AsyncIterator[Parrot]:
    parrot = Parrot()
    async with served(parrot.handle) as parrot.url:
        yield parrot


@pytest.fixture(scope="module")
def parrot():
    with Background(parroting()) as parrot:
        yield parrot


@pytest.fixture(autouse=True)
def _well_behaved(parrot):
    parrot.status, parrot.valid = 200, True


@dataclass(frozen=True)
class Position:
    """The place of a secret: lines for the tables of endpoint, auth and codec."""

    endpoint: str = ""
    auth: str = ""
    codec: str = ""
    url: str = "{server}/predict"
    secret: str = CANARY


def _header(value: str, name: str = "Authorization") -> str:
    return f"headers = {{ {name} = {json.dumps(value)} }}"


POSITIONS = {
    "path of the url": Position(url="{server}/v1/${SECRET}/predict"),
    "last part of the path": Position(url="{server}/v1/${SECRET}"),
    "default in the path": Position(url="{server}/v1/" + DEFAULT + "/predict"),
    "query of the url": Position(url="{server}/predict?key=${SECRET}&x=1"),
    "literal query": Position(url="{server}/predict?key=" + CANARY + "&x=1"),
    "user of the url": Position(url="http://${SECRET}:x@{host}/predict"),
    "password of the url": Position(url="http://me:${SECRET}@{host}/predict"),
    "one of several urls": Position(
        endpoint='urls = ["{server}/predict?key=${SECRET}"]', url="{server}/predict?key=public"
    ),
    "bearer token": Position(endpoint=_header("Bearer ${SECRET}")),
    "literal bearer token": Position(endpoint=_header(f"Bearer {CANARY}")),
    "default of a token": Position(endpoint=_header(f"Bearer {DEFAULT}")),
    "basic pair": Position(endpoint=_header("Basic ${PAIR}")),
    "literal basic pair": Position(endpoint=_header(f"Basic {PAIR}")),
    "token parameter": Position(endpoint=_header('Token realm="x", token="${SECRET}"')),
    "signature": Position(endpoint=_header("AWS4-HMAC-SHA256 Credential=AKIA/x, Signature=${SECRET}")),
    "cookie": Position(endpoint=_header("sid=${SECRET}; theme=dark", "Cookie")),
    "literal cookie": Position(endpoint=_header(f'theme=dark; sid="{CANARY}"', "Cookie")),
    "header of its own": Position(endpoint=_header("${SECRET}", "X-Api-Key")),
    "part of a header": Position(endpoint=_header(f"one two {CANARY} three", "X-Note")),
    "password of the proxy": Position(endpoint='proxy = "http://me:${SECRET}@{host}"'),
    "token": Position(auth='token = "${SECRET}"'),
    "literal token": Position(auth=f'token = "{CANARY}"'),
    "key in a header": Position(auth='type = "api-key"\nheader = "X-Note"\ntoken = "${SECRET}"'),
    "name of a pair": Position(auth='type = "basic"\nusername = "${SECRET}"'),
    "password of a pair": Position(auth='type = "basic"\nusername = "someone"\npassword = "${SECRET}"'),
    "token of a command": Position(auth='type = "command"\ncommand = ["printf", "%s", "${SECRET}"]'),
    "option of the codec": Position(
        codec='request = { instances = "{{rows}}", user = "${SECRET}" }\nanswers = "predictions"'
    ),
    "odd option of the codec": Position(
        codec='request = { instances = "{{rows}}", user = "${ODD}" }\nanswers = "predictions"', secret=ODD
    ),
    "field of the codec": Position(
        codec='request = { instances = "{{rows}}", key = "a ${SECRET}" }\nanswers = "predictions"'
    ),
    "default in the codec": Position(
        codec='request = { instances = "{{rows}}", user = "' + DEFAULT + '" }\nanswers = "predictions"'
    ),
}

JOB_WITH_SECRET = JOB.replace('url = "{url}"', 'url = "{url}"\n{endpoint}').replace(
    '[codec]\nname = "json"', '[auth]\n{auth}\n\n[codec]\nname = "json"\n{codec}'
)


@pytest.fixture
def prepare(tmp_path, parrot, monkeypatch):
    """Write the job with a secret at one position."""
    for name, value in {"SECRET": CANARY, "ODD": ODD, "PAIR": PAIR}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("UNSET", raising=False)

    def prepare(position: Position, rows: np.ndarray, server: str = "") -> None:
        server = server or parrot.url
        text = JOB_WITH_SECRET.replace("{url}", position.url).replace("{endpoint}", position.endpoint)
        text = text.replace("{codec}", position.codec).replace("{auth}", position.auth).replace("{server}", server)
        np.save(tmp_path / "x.npy", rows)
        (tmp_path / "job.toml").write_text(text.replace("{host}", server.removeprefix("http://")), "utf-8")

    return prepare


GOOD = np.arange(12.0)
BAD = np.where(np.arange(12) == 5, -1.0, np.arange(12.0))


def _refused(command, prepare, parrot, position):
    prepare(position, GOOD)
    parrot.status = 401
    return [command("run", "job.toml"), command("run", "job.toml", "--json"), command("check", "job.toml")]


def _failing(command, prepare, parrot, position):
    prepare(position, BAD)
    first = command("run", "job.toml")
    assert "11 ok, 1 failed" in first.out, first
    status = command("status", "job.toml")
    return [first, status, command("status", "job.toml", "--json"), command("run", "job.toml", "--json")]


def _recorded(command, prepare, parrot, position):
    prepare(position, BAD)
    first = command("run", "job.toml", "--record", "run.recording", "--json")
    assert json.loads(first.out)["ok"] == 11
    again = command("run", "job.toml", "--replay", "run.recording")
    assert "11 ok, 1 failed" in again.out, again
    prepare(position, GOOD + 1)
    return [first, again, command("run", "job.toml", "--replay", "run.recording", "--fresh")]


def _crashing(command, prepare, parrot, position):
    prepare(position, GOOD)
    parrot.status = 500
    return [command("run", "job.toml"), command("run", "job.toml", "--json", "--fresh")]


def _invalid(command, prepare, parrot, position):
    prepare(position, GOOD)
    parrot.valid = False
    return [command("run", "job.toml"), command("check", "job.toml", "--json")]


def _unreachable(command, prepare, parrot, position):
    prepare(position, GOOD, "http://127.0.0.1:9")
    return [command("run", "job.toml"), command("run", "job.toml", "--json"), command("check", "job.toml")]


def _looked_at(command, prepare, parrot, position):
    prepare(position, GOOD)
    return [
        command("check", "job.toml"),
        command("check", "job.toml", "--json"),
        command("check", "job.toml", "--dry-run"),
        command("tune", "job.toml", "--seconds", "0.01", "--max-requests", "5", "--json"),
        command("tune", "job.toml", "--seconds", "0.01", "--max-requests", "5"),
    ]


def _mistaken(command, prepare, parrot, position):
    prepare(position, GOOD)
    return [
        command("run", "job.toml", "--set", "endpoint.weights=[1, 2, 3, 4]"),
        command("run", "job.toml", "--set", "codec.answers=${SECRET}[["),
        command("run", "job.toml", "--set", "endpoint.url=${SECRET}/x"),
        command("run", "job.toml", "--set", "endpoint.ca_file=${SECRET}/x.pem"),
        command("run", "job.toml", "--set", "codec.name=${SECRET}"),
    ]


PLACES = {
    "refused": _refused,
    "failing rows": _failing,
    "recording": _recorded,
    "crashing": _crashing,
    "invalid answers": _invalid,
    "unreachable": _unreachable,
    "check and tune": _looked_at,
    "mistakes": _mistaken,
}


OFTEN = {"failing rows", "refused"}
"""The places that are tried with every position; these write the most files, and quote the server at most length."""

ONE_OF_A_KIND = {
    "default in the path", "query of the url", "password of the url", "bearer token", "basic pair", "cookie",
    "part of a header", "password of the proxy", "password of a pair", "token of a command", "odd option of the codec",
    "default in the codec",
}  # fmt: skip
"""The positions that are tried in every place."""


@pytest.mark.parametrize(
    ("place", "position"),
    [
        pytest.param(
            PLACES[place],
            POSITIONS[position],
            id=f"{place}-{position}",
            marks=[] if place in OFTEN or position in ONE_OF_A_KIND else pytest.mark.slow,
        )
        for place in PLACES
        for position in POSITIONS
    ],
)
def test_a_secret_appears_nowhere(command, prepare, parrot, tmp_path, place, position):
    for number, ended in enumerate(place(command, prepare, parrot, position)):
        _assert_absent(position.secret, ended.out + ended.err, f"command {number}")
    for path in _written(tmp_path):
        _assert_absent(position.secret, path.read_bytes().decode("utf-8", "replace"), path.name)
        _assert_absent(position.secret, path.name, "the name of a file")


def _assert_absent(secret: str, text: str, where: str) -> None:
    low = text.lower()
    forms = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    if secret == CANARY:
        forms |= {PAIR}
    for form in forms:
        assert form.lower() not in low, f"{form} is in {where}: ...{text[max(0, low.find(form.lower()) - 200) :][:300]}"


def _written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in ("job.toml", "x.npy")]


def test_a_stop_still_quotes_the_rest_of_the_server_s_message(command, prepare, parrot):
    prepare(POSITIONS["bearer token"], GOOD)
    parrot.status = 401
    assert "/PREDICT /predict" in command("run", "job.toml").err


def test_a_short_value_is_redacted_only_at_its_own_place(command, prepare, parrot, monkeypatch):
    monkeypatch.setenv("SECRET", "ab1")
    prepare(Position(url="{server}/${SECRET}/predict"), GOOD)
    parrot.status = 401
    ended = command("run", "job.toml", "--set", "output.path=ab1.txt")
    assert "output.path: ab1.txt: an output" in ended.err
    ended = command("run", "job.toml")
    assert f"asked at {parrot.url}/***/predict" in ended.err
    prepare(Position(codec='dtype = "${SECRET}"'), GOOD)
    assert "***" in (message := command("run", "job.toml").err)
    assert "ab1" not in message


@pytest.mark.parametrize("name", [CANARY, f"{CANARY}.jsonl"])
def test_paths_of_input_and_output_are_shown_even_if_they_hold_a_secret(command, prepare, tmp_path, name):
    prepare(POSITIONS["option of the codec"], BAD)
    (tmp_path / "x.npy").rename(tmp_path / f"{CANARY}.npy")
    path = f"{CANARY}.npy" if name == CANARY else name
    settings = ["--set", "input.path=${SECRET}.npy", "--set", f"output.path=out/{path.replace(CANARY, '${SECRET}')}"]
    ended = command("run", "job.toml", *settings, "--json")
    summary = json.loads(ended.out)
    assert summary["outputs"] == [f"out/{path}"]
    assert CANARY not in json.dumps(summary["first_failures"])
    assert f"output:   out/{path}" in command("run", "job.toml", *settings).out
    missing = command("run", "job.toml", *settings, "--set", "input.path=no-${SECRET}.npy")
    assert f"no-{CANARY}.npy" in missing.err


def test_the_library_redacts_the_secrets_that_it_is_given(parrot):
    import fanout

    client = fanout.SyncClient(f"{parrot.url}/{CANARY}/x", codec="json", secrets=[CANARY])
    parrot.status = 401
    with client, pytest.raises(fanout.RunStopped) as caught:
        client.map(GOOD)
    assert CANARY not in str(caught.value) + repr(client)
    assert "***" in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_files_that_quote_servers_or_rows_are_readable_by_their_owner_only(command, prepare, tmp_path):
    prepare(POSITIONS["bearer token"], BAD)
    before = os.umask(0)
    try:
        command("run", "job.toml", "--record", "run.recording")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in _written(tmp_path)}
    private = {name for name, mode in modes.items() if mode == 0o600}
    assert {"run.recording", "y.npy.journal"} <= private
    assert any("failures" in name for name in private)
    assert modes["y.npy"] == 0o666

"""Rows 67 to 69 of the fault matrix: texts of servers and files that must not reach a screen or a log."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Endpoint, RowsFailed, RunStopped
from fanout.serving.exchange import ServerResponse
from fanout.testing import FaultServer
from tests.faults.scene import CHUNK, QUICK, X, double

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.serving.exchange import ServerRequest

CONTROL = "".join(
    map(chr, [0, 7, 8, 9, 10, 13, 0x1B, 0x7F, 0x85, 0x90, 0x9B, 0x9D, 0x200E, 0x2028, 0x2029, 0x202E, 0x2066])
)
NASTY = "".join(f"<{char}>" for char in CONTROL)
SECRET = "Canary-7f3a9c"


def refusing(status: int, text: str, *, as_json: bool) -> ServerResponse:
    body = json.dumps({"error": text}, ensure_ascii=False) if as_json else text
    kind = "application/json" if as_json else "text/plain"
    return ServerResponse(status=status, headers={"Content-Type": kind}, body=body.encode())


async def everything_shown(server: FaultServer, endpoint: Endpoint, **options: Any) -> str:
    """All texts that a run shows which does not end well."""
    events: list[fanout.Event] = []
    async with fanout.Client(
        endpoint, codec="v1", chunk_rows=CHUNK, retry=QUICK, on_event=events.append, **options
    ) as client:
        with pytest.raises((RunStopped, RowsFailed)) as caught:
            await client.map(X)
        shown = [str(caught.value), repr(caught.value), repr(client), repr(client.statistics())]
        shown += [getattr(caught.value, "reason", ""), *(event.reason for event in events)]
        assert isinstance(caught.value, RunStopped | RowsFailed)
        shown += [failure.reason for failure in caught.value.result.failures]
        shown += [failure.endpoint for failure in caught.value.result.failures]
    return "\u241e".join(shown)


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("status", [200, 400, 401, 404, 422])
async def test_row_67_control_characters_become_visible_escapes(status: int, as_json: bool) -> None:
    async with FaultServer(double) as server:
        server.script(*[refusing(status, NASTY, as_json=as_json)] * 2000)
        shown = await everything_shown(server, Endpoint(url=server.url("v1")))
    assert not set(CONTROL) & set(shown)
    assert r"<\x1b>" in shown or r"<\u001b>" in shown  # the second as the JSON of an invalid answer has it
    assert r"<\u202e>" in shown


def parrot(status: int) -> Any:
    """Repeats path and headers in capitals and small letters."""

    def answer(request: ServerRequest) -> ServerResponse:
        sent = f"{request.path} {request.headers}"
        return refusing(status, f"{sent.upper()[:120]} {sent.lower()[:120]} {sent}", as_json=True)

    return answer


PAIR = b64encode(f"user:{SECRET}".encode()).decode()


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({"Authorization": f"Bearer {SECRET}"}, ""),
        ({"Authorization": f"Basic {PAIR}"}, ""),
        ({"Cookie": f"theme=dark; sid={SECRET}"}, ""),
        ({"X-Note": f"a {SECRET} b"}, ""),
        ({}, f"/{SECRET}"),
    ],
)
@pytest.mark.parametrize("status", [401, 422])
async def test_row_68_secrets_are_stars(status: int, headers: dict[str, str], path: str) -> None:
    async with FaultServer(double, faults=parrot(status)) as server:
        endpoint = Endpoint(url=server.url("v1").replace("/v1/", f"{path}/v1/"), headers=headers)
        shown = await everything_shown(server, endpoint, secrets=[SECRET] if path else [])
    assert SECRET.lower() not in shown.lower()
    assert PAIR.lower() not in shown.lower()


def test_row_69_a_damaged_file_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(bytes(data))
    with pytest.raises(fanout.InputError, match=r"x\.npz cannot be read"):
        list(fanout.open_source(tmp_path / "x.npz", "x").blocks())

"""The requests that take the fast path, and that they are the same requests. All other tests run on both paths."""

from __future__ import annotations

import asyncio
import functools
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from fanout.addresses import Endpoint
from fanout.errors import ConfigError, IncompleteResponse
from fanout.settings import Timeouts
from fanout.transport import EndpointClient, SendAborted, fast_path
from fanout.transport.fast_path import SMALL, FastPath
from fanout.transport.http import HttpTransport
from fanout.types import Payload, Response
from tests.loopback import Line, Received, http, loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from fanout.transport import Request
    from fanout.transport.connections import PooledConnection

OK = http(b'{"ok": 1}')


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """True for every request that took the fast path, False for one that went through the session."""
    taken: list[bool] = []
    fast, through_session = FastPath.send, HttpTransport.send

    async def noted_fast(self: FastPath, request: Request) -> Response:
        taken.append(True)
        return await fast(self, request)

    async def noted_session(self: HttpTransport, request: Request) -> Response:
        taken[-1:] = [False]
        return await through_session(self, request)

    monkeypatch.setattr(FastPath, "send", noted_fast)
    monkeypatch.setattr(HttpTransport, "send", noted_session)
    return taken


@asynccontextmanager
async def transport_to(
    url: str, *, headers: Mapping[str, str] | None = None, connections: int = 4
) -> AsyncIterator[EndpointClient]:
    endpoint = Endpoint(url=url, headers=headers or {})
    client = EndpointClient(endpoint, url, timeouts=Timeouts(), connections=connections)
    try:
        yield client
    finally:
        await client.close()


def idle_of(transport: EndpointClient) -> list[PooledConnection]:
    """The connections outside aiohttp's pool, which nothing else shows."""
    fast = transport._http.fast_path  # noqa: SLF001 - nothing else shows them
    return fast._idle._idle  # noqa: SLF001 - nothing else shows them


async def post(url: str, payload: Payload, *, headers: Mapping[str, str] | None = None) -> bytes:
    async with transport_to(url, headers=headers) as client:
        return (await client.post(payload)).body


async def seen_by_a_server(payload: Payload, **options: Any) -> tuple[str, dict[str, str], bytes]:
    async with loopback(OK) as server:
        assert await post(server.url + "/a b?c=%7e", payload, **options) == b'{"ok": 1}'
        (request,) = server.requests
        request.headers["host"] = request.headers["host"].partition(":")[0]
        return request.line, request.headers, request.body


REQUESTS = [
    (Payload(body=b"{}"), {}),
    (Payload(body=(b"[", memoryview(b"1"), bytearray(b"]"))), {"X-Key": "s3cret", "accept": "x/y", "user-agent": "me"}),
    (Payload(body=b"", content_type="text/plain", headers={"X-Length": "3", "host": "somebody"}), {"x-length": "4"}),
    (Payload(body="größe".encode(), headers={"X-Word": "ü"}), {"X-More": "a b"}),
]


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize(("payload", "headers"), REQUESTS)
async def test_a_server_sees_the_same_request_either_way(
    payload: Payload, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    directly = await seen_by_a_server(payload, headers=headers)
    monkeypatch.setattr(fast_path, "SMALL", -1)
    assert directly == await seen_by_a_server(payload, headers=headers)


@pytest.mark.parametrize(
    ("payload", "headers", "goes"),
    [
        (Payload(body=bytes(SMALL)), {}, True),
        (Payload(body=bytes(SMALL + 1)), {}, False),
        (Payload(body=(bytes(SMALL), b"1")), {}, False),
    ],
    ids=["small", "large", "large in parts"],
)
async def test_requests_that_need_aiohttp_go_through_the_session(
    payload: Payload, headers: dict[str, str], goes: bool, taken: list[bool], way: str
) -> None:
    if way == "direct":
        async with loopback(http(b"1")) as server:
            assert await post(server.url, payload, headers=headers) == b"1"
        assert taken == [goes]


async def test_a_password_in_the_url_goes_through_the_session(taken: list[bool], way: str) -> None:
    if way == "direct":
        async with loopback(OK) as server:
            await post(server.url.replace("//", "//user:s3cret@"), Payload(body=b"1"))
            assert "authorization" in server.requests[0].headers
        assert taken == [False]


async def test_a_wrapper_round_the_session_is_called(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    original = aiohttp.ClientSession._request  # noqa: SLF001 - what aiohttp and its wrappers look at

    @functools.wraps(original)
    async def wrapper(self: aiohttp.ClientSession, method: str, *args: Any, **options: Any) -> Any:
        calls.append(method)
        return await original(self, method, *args, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", wrapper)
    async with loopback(OK) as server:
        await post(server.url, Payload(body=b"1"))
    assert calls == ["POST"]


@pytest.mark.one_way
@pytest.mark.parametrize("value", ["1\r\nY: 2", "a\x0bb", "\x01", "\x7f", "\0"])
async def test_a_control_character_in_a_header_is_refused_before_anything_is_sent(value: str) -> None:
    async with loopback(OK) as server:
        with pytest.raises(ConfigError, match="control character"):
            await post(server.url, Payload(body=b"1", headers={"X": value}))
        assert server.requests == []


async def test_a_replacement_of_the_public_method_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise aiohttp.ClientPayloadError("the double was asked")

    monkeypatch.setattr(aiohttp.ClientSession, "request", refuse)
    async with loopback(OK) as server:
        with pytest.raises(IncompleteResponse, match="the double was asked"):
            await post(server.url, Payload(body=b"1"))
        assert server.requests == []


@pytest.mark.parametrize("status", ["099", "000", "007"])
async def test_a_status_that_does_not_exist_is_an_answer(status: str) -> None:
    answer = f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    async with loopback(answer) as server, transport_to(server.url) as transport:
        assert (await asyncio.wait_for(transport.post(Payload(body=b"1")), 5)).status == int(status)


async def test_a_connection_that_the_server_will_close_is_not_kept_idle(way: str) -> None:
    answer = http(b"1", headers={"Connection": "close"})
    async with loopback(answer) as server, transport_to(server.url) as transport:
        for _ in range(3):
            await transport.post(Payload(body=b"1"))
        assert server.connections == 3


async def test_a_connection_that_gives_the_answers_of_others_is_not_used_again(way: str) -> None:
    async def answer(received: Received, line: Line) -> None:
        number = "of another" if received.connection == 0 else received.headers["x-id"]
        await line.send(http(b"1", headers={"X-Id": number}))

    async with loopback(answer) as server:
        endpoint = Endpoint(url=server.url, request_id_header="X-Id")
        client = EndpointClient(endpoint, server.url, timeouts=Timeouts(), connections=1)
        try:
            with pytest.raises(IncompleteResponse, match="belongs to another request"):
                await client.post(Payload(body=b"1"))
            if way == "direct":
                assert (await client.post(Payload(body=b"1"))).body == b"1"
                assert server.connections == 2
        finally:
            await client.close()


async def test_both_paths_use_one_connection_in_turn(way: str) -> None:
    async with loopback(http(b"1")) as server, transport_to(server.url, connections=1) as transport:
        for size in (1, SMALL + 1, SMALL + 1, 1, 1, SMALL + 1):
            await asyncio.wait_for(transport.post(Payload(body=bytes(size))), 5)
        await asyncio.wait_for(transport.get(server.url), 5)
        assert server.connections == 1


@pytest.mark.parametrize("connections", [1, 8])
async def test_requests_that_wait_for_a_connection_keep_their_own_headers(way: str, connections: int) -> None:
    """A codec may describe each body in a header (Inference-Header-Content-Length), and many requests start at once."""
    async with loopback(http(b"1")) as server, transport_to(server.url, connections=connections) as transport:
        payloads = [Payload(body=b"%d" % n, headers={"X-Number": str(n)}) for n in range(8)]
        await asyncio.gather(*map(transport.post, payloads))
        assert [request.headers["x-number"] for request in server.requests] == [
            request.body.decode() for request in server.requests
        ]


async def test_a_waiting_request_gets_the_connection_of_a_small_one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "_MOMENT", 1000.0)
    go = asyncio.Event()

    async def answer(_: Received, line: Line) -> None:
        await go.wait()
        await line.send(http(b"1"))

    async with loopback(answer) as server, transport_to(server.url, connections=1) as transport:
        first = asyncio.create_task(transport.post(Payload(body=b"1")))
        while not server.requests:  # noqa: ASYNC110 - it comes from the socket, not from a task
            await asyncio.sleep(0)
        second = asyncio.create_task(transport.post(Payload(body=bytes(SMALL + 1))))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, second)
        assert server.connections == 1


async def test_a_fresh_request_opens_a_connection_beside_idle_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "_MOMENT", 1000.0)
    async with loopback(http(b"1")) as server, transport_to(server.url, connections=1) as transport:
        await transport.post(Payload(body=b"1"))
        await transport.post(Payload(body=b"1"), fresh=True)
        assert server.connections == 2


async def test_an_idle_connection_goes_to_the_pool_after_a_moment(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "_MOMENT", 1000.0)
    loop = asyncio.get_running_loop()
    now = loop.time
    async with loopback(http(b"1")) as server, transport_to(server.url) as transport:
        await asyncio.gather(*(transport.post(Payload(body=b"1")) for _ in range(4)))
        assert len(idle_of(transport)) == (4 if way == "direct" else 0)
        monkeypatch.setattr(loop, "time", lambda: now() + 1000)  # the moment passes
        for _ in range(2):
            await asyncio.sleep(0)
        assert (idle_of(transport), transport._http.connector._acquired) == ([], set())  # noqa: SLF001 - what aiohttp and its wrappers look at
        await asyncio.gather(*(transport.post(Payload(body=b"1")) for _ in range(4)))
        assert server.connections == 4


async def test_a_connection_that_is_closing_is_not_idle() -> None:
    async with loopback(http(b"1")) as server, transport_to(server.url) as transport:
        await transport.post(Payload(body=b"1"))
        for kept in idle_of(transport):
            assert kept.protocol.transport is not None
            kept.protocol.transport.close()
        assert (await transport.post(Payload(body=b"1"))).body == b"1"


async def test_nothing_is_sent_during_a_cooldown_on_a_new_connection_or_a_kept_one() -> None:
    async with loopback(http(b"1")) as server, transport_to(server.url, connections=1) as transport:
        for requests in range(3):
            transport.cooldown.until = math.inf
            with pytest.raises(SendAborted):
                await transport.post(Payload(body=b"1"))
            assert len(server.requests) == requests
            transport.cooldown.until = 0.0
            await transport.post(Payload(body=b"1"))
        assert server.connections == 1

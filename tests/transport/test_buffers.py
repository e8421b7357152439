"""Large bodies in buffers: whole, however they come; an error where they end early."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trustme
import uvloop

from fanout import Client
from fanout.addresses import Endpoint
from fanout.errors import IncompleteResponse, ResponseTooLarge
from fanout.settings import Limits, Timeouts
from fanout.testing import FaultServer
from fanout.transport import EndpointClient, buffers
from fanout.transport.buffers import LARGE, Buffers
from fanout.types import Payload
from tests.loopback import Line, Received, chunked, http, loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BODY = np.random.default_rng(1).bytes(3 * LARGE)
PAYLOAD = Payload(body=b"1")


@asynccontextmanager
async def transport_to(url: str, *, cap: int = 2**30, **options: Any) -> AsyncIterator[EndpointClient]:
    endpoint = Endpoint(url=url, max_response_bytes=cap, **options)
    endpoint_client = EndpointClient(endpoint, url, timeouts=Timeouts(), connections=4, buffers=True)
    try:
        yield endpoint_client
    finally:
        await asyncio.wait_for(endpoint_client.close(), 5)


def in_pieces(*sizes: int, body: bytes = BODY) -> Callable[[Received, Line], Any]:
    """Sends the head with the first piece, and gives each piece its time to arrive alone."""

    async def answer(_: Received, line: Line) -> None:
        whole = http(body)
        at = len(whole) - len(body)
        for start, size in zip([0, *(at + sum(sizes[:i]) for i in range(1, len(sizes)))], sizes, strict=True):
            end = (at if start == 0 else start) + size
            await line.send(whole[start:end])
            await asyncio.sleep(0.005)
        await line.send(whole[at + sum(sizes) :])

    return answer


@pytest.mark.parametrize(
    "answer",
    [http(BODY), in_pieces(0), in_pieces(1, LARGE), in_pieces(200_000, 3), in_pieces(3 * LARGE - 1), chunked(BODY)],
    ids=["at once", "head first", "a byte first", "more than the parser holds", "a byte last", "in chunks"],
)
async def test_a_large_body_is_whole_and_its_connection_is_used_again(answer: Any) -> None:
    async with loopback(answer) as server, transport_to(server.url) as transport:
        for _ in range(3):
            assert (await transport.post(PAYLOAD)).body == BODY
        assert server.connections == 1
        assert_free(transport, at_most=1)


async def failure(transport: EndpointClient) -> str:
    """Return the type of a post's error; the error itself, whose traceback holds references, is dropped."""
    try:
        async with asyncio.timeout(5):
            await transport.post(PAYLOAD)
    except IncompleteResponse as error:
        return str(error)
    return ""


def assert_free(transport: EndpointClient, *, at_most: int) -> None:
    """Require that no buffer is referenced any more, and that at most ``at_most`` are kept."""
    assert transport._http._buffers is not None  # noqa: SLF001 - memory that is kept for later shows in nothing else
    references = buffers._references(transport._http._buffers._kept)  # noqa: SLF001 - memory that is kept for later shows in nothing else
    assert len(references) <= at_most
    assert set(references) <= {buffers._UNUSED}  # noqa: SLF001 - memory that is kept for later shows in nothing else


async def test_a_small_answer_comes_after_a_large_one_on_the_same_connection() -> None:
    async def answer(received: Received, line: Line) -> None:
        await line.send(http(BODY if received.body == b"1" else b"small"))

    async with loopback(answer) as server, transport_to(server.url) as transport:
        for _ in range(2):
            assert (await transport.post(PAYLOAD)).body == BODY
            assert (await transport.post(Payload(body=b"2"))).body == b"small"
        assert server.connections == 1


async def test_a_large_body_comes_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with (
        loopback(http(BODY), tls=tls) as server,
        transport_to(server.url, ca_file=str(tmp_path / "ca.pem")) as transport,
    ):
        for _ in range(3):
            assert (await transport.post(PAYLOAD)).body == BODY
        assert server.connections == 1
        assert_free(transport, at_most=1)


def test_a_large_body_comes_on_uvloop() -> None:
    async def main() -> None:
        async with loopback(in_pieces(0)) as server, transport_to(server.url) as transport:
            for _ in range(3):
                assert (await transport.post(PAYLOAD)).body == BODY
            assert server.connections == 1
            assert_free(transport, at_most=1)

    uvloop.run(main())


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("sent", [0, 1000, LARGE])
async def test_a_large_body_that_breaks_off_is_incomplete(sent: int, reset: bool) -> None:
    async def answer(_: Received, line: Line) -> None:
        await line.send(http(BODY)[: sent - len(BODY)])
        await asyncio.sleep(0.01)
        line.reset() if reset else line.close()

    async with loopback(answer) as server, transport_to(server.url) as transport:
        failures = [await failure(transport) for _ in range(2)]
        assert all("broke off" in text for text in failures)
        assert server.connections == 2
        await asyncio.sleep(0)
        assert not transport._http.connector._known, "a connection is remembered that is gone"  # noqa: SLF001 - memory that is kept for later shows in nothing else
        assert_free(transport, at_most=1)


async def test_bytes_behind_a_large_body_are_not_the_next_response() -> None:
    async def answer(received: Received, line: Line) -> None:
        await line.send(http(BODY) + (http(b"stale") if received.connection == 0 else b""))

    async with loopback(answer) as server, transport_to(server.url) as transport:
        for _ in range(3):
            assert (await transport.post(PAYLOAD)).body == BODY
        assert server.connections == 2


async def test_a_body_without_a_buffer_is_received_too() -> None:
    async with loopback(in_pieces(0)) as server, transport_to(server.url) as transport:
        transport._http._buffers = Buffers(most=len(BODY) - 1)  # noqa: SLF001 - memory that is kept for later shows in nothing else
        assert (await transport.post(PAYLOAD)).body == BODY
        assert transport._http._buffers._kept == []  # noqa: SLF001 - memory that is kept for later shows in nothing else


async def test_a_body_beyond_the_cap_fails_at_once() -> None:
    async def answer(_: Received, line: Line) -> None:
        await line.send(http(BODY)[: 2 * LARGE])  # and no more

    async with loopback(answer) as server, transport_to(server.url, cap=LARGE) as transport:
        with pytest.raises(ResponseTooLarge, match="larger than the cap"):
            await asyncio.wait_for(transport.post(PAYLOAD), 5)
        assert transport._http._buffers is not None  # noqa: SLF001 - memory that is kept for later shows in nothing else
        assert transport._http._buffers._kept == []  # noqa: SLF001 - memory that is kept for later shows in nothing else


async def test_a_request_cancelled_in_mid_body_leaves_no_connection_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    filling, asked, go = asyncio.Event(), asyncio.Queue[Received](), asyncio.Event()
    updated = buffers._Filling.buffer_updated  # noqa: SLF001 - memory that is kept for later shows in nothing else

    def noted(*args: Any) -> None:
        updated(*args)
        filling.set()

    async def answer(received: Received, line: Line) -> None:
        asked.put_nowait(received)
        await line.send(http(BODY)[:-1000])
        await go.wait()

    monkeypatch.setattr(buffers._Filling, "buffer_updated", noted)  # noqa: SLF001 - memory that is kept for later shows in nothing else
    async with loopback(answer) as server, transport_to(server.url) as transport:
        for connection in range(3):
            filling.clear()
            post = asyncio.create_task(transport.post(PAYLOAD))
            assert (await asked.get()).connection == connection
            await filling.wait()
            post.cancel()
            with pytest.raises(asyncio.CancelledError):
                await post
        go.set()


async def test_arrays_in_use_do_not_change() -> None:
    rows = np.arange(24 * 200_000, dtype="f4").reshape(24, 200_000)

    async with FaultServer(lambda x: np.asarray(x) * 2) as server:
        endpoint = Endpoint(url=server.url("oip"), max_response_bytes=2**30)
        async with Client(endpoint, codec="oip", chunk_rows=1, limits=Limits(concurrency=4)) as client:
            held, digests = [], []
            async with client.stream(rows) as results:
                async for done in results:
                    (array,) = (done.outputs or {}).values()
                    held.append((done.start, array))
                    digests.append(hashlib.sha256(array).digest())
    assert [hashlib.sha256(array).digest() for _, array in held] == digests
    for start, array in held:
        assert (array == rows[start] * 2).all()


@pytest.mark.one_way
def test_a_buffer_takes_memory_only_as_its_body_comes() -> None:
    """To clear all of it at once would hold up the event loop."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("the system does not show the memory of a process")
    before = resident_pages()
    buffer = Buffers().take(2**26)
    assert buffer is not None
    assert len(buffer) == 2**26
    assert resident_pages() - before < 2**26 // 4096 // 4
    buffer[-3:] = b"end"
    assert buffer.endswith(b"end")


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])

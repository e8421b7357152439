"""Another release of aiohttp: requests take documented paths, one warning is logged, and all answers are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import orjson
import pytest
from aiohttp import client_proto

from fanout import Client, Endpoint, Limits, Timeouts
from fanout.errors import IncompleteResponse
from fanout.transport import EndpointClient, aiohttp_names
from fanout.transport.aiohttp_names import Use, usable
from fanout.transport.fast_path import SMALL
from fanout.types import Payload
from tests.loopback import Line, Received, http, loopback

if TYPE_CHECKING:
    from collections.abc import Callable

X = np.arange(60.0).reshape(20, 3) + 0.5
LARGE = np.ones((4, SMALL))

pytestmark = pytest.mark.usefixtures("unwarned")


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp_names, "_warned", set())


class ChangedRequest(aiohttp.ClientRequest):
    def __init__(self, method: str, url: Any, *, something_new: object, **options: Any) -> None:
        super().__init__(method, url, **options)


def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp, "__version__", "3.15.0")


def changed_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp_names.PlainRequest, "__init__", ChangedRequest.__init__)


def changed_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_proto.ResponseHandler, "set_response_params", lambda self, *, limits: None)


def changed_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = aiohttp.TCPConnector.connect

    async def other(self: Any, request: Any, *, traces: Any, timeout: Any, options: Any = None) -> Any:
        return await connect(self, request, traces, timeout)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", other)


def without_should_close(monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple((shown, owner, (*attributes, "gone")) for shown, owner, attributes in aiohttp_names._NAMES)  # noqa: SLF001 - a release without one of the names
    monkeypatch.setattr(aiohttp_names, "_NAMES", names)


CHANGES: list[tuple[Callable[[pytest.MonkeyPatch], None], Use]] = [
    (newer, Use.CONNECTOR),
    (changed_request, Use.CONNECTOR),
    (changed_connect, Use.NONE),
    (without_should_close, Use.NONE),
]


@pytest.mark.one_way
async def test_the_installed_release_is_used_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    assert usable() is Use.ALL
    assert caplog.messages == []


@pytest.mark.one_way
async def test_other_parameters_of_the_protocol_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    changed_parameters(monkeypatch)
    assert usable() is Use.CONNECTOR


@pytest.mark.one_way
@pytest.mark.parametrize(("change", "use"), CHANGES)
async def test_another_release_gives_the_same_answers_with_one_warning(
    change: Callable[[pytest.MonkeyPatch], None],
    use: Use,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(received: Received, line: Line) -> None:
        await line.send(http(orjson.dumps({"predictions": orjson.loads(received.body)["instances"]})))

    change(monkeypatch)
    async with loopback(answer) as server:
        for _ in range(2):
            limits = Limits(concurrency=1)
            async with Client(server.url + ":predict", codec="v1", chunk_rows=1, limits=limits) as client:
                assert np.array_equal(await client.map(X), X)
                assert np.array_equal(await client.map(LARGE), LARGE)
                assert client.statistics().retries == 0
    requests = 2 * (len(X) + len(LARGE))
    assert len(server.requests) == requests
    assert server.connections == (requests if use is Use.NONE else 2), "kept only if they can be looked at"
    (message,) = caplog.messages
    assert f"aiohttp {aiohttp.__version__} is not the release that fanout knows" in message


@pytest.mark.one_way
async def test_a_body_that_breaks_off_ends_the_exchange_on_any_release(monkeypatch: pytest.MonkeyPatch) -> None:
    without_should_close(monkeypatch)

    async def answer(_: Received, line: Line) -> None:
        await line.send(http(b"x" * 100)[:-50])
        line.close()

    async with loopback(answer) as server:
        transport = EndpointClient(Endpoint(url=server.url), server.url, timeouts=Timeouts(), connections=1)
        try:
            with pytest.raises(IncompleteResponse, match="broke off"):
                await transport.post(Payload(body=b"1"))
        finally:
            await transport.close()

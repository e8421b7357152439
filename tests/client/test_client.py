"""The client's face: its life, its arguments, its errors."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import BearerAuth, Client, ClientStateError, Codec, ConfigError, Endpoint, Limits, RowsFailed, RunStopped
from fanout.client.endpoints import request_url
from fanout.serving.exchange import StatusError
from fanout.testing import MockEndpoint, VirtualClock
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.transport import Request
    from fanout.types import Response

X = np.arange(60.0).reshape(20, 3)


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


@pytest.mark.parametrize(
    ("url", "path", "model", "wanted"),
    [
        ("http://h:1", "/v1/embeddings", None, "http://h:1/v1/embeddings"),
        ("http://h:1/", "/v1/embeddings", None, "http://h:1/v1/embeddings"),
        ("http://h/deep/path?a=1", "/v1/embeddings", None, "http://h/deep/path?a=1"),
        ("http://h?a=1", "/x", None, "http://h/x?a=1"),
        ("http://h", "", None, "http://h"),
        ("http://h", "/v2/models/{model}/infer", "digits", "http://h/v2/models/digits/infer"),
        ("http://h", "/m/{model}", "pkg.mod:f", "http://h/m/pkg.mod:f"),
    ],
)
def test_the_codec_completes_a_url_without_a_path(url: str, path: str, model: str | None, wanted: str) -> None:
    assert request_url(url, path, model) == wanted


def test_a_url_that_names_no_model_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigError, match=r"names no model.*http://h/v2/models/NAME/infer"):
        request_url("http://h", "/v2/models/{model}/infer")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"endpoint": "localhost:8000/x"}, "http://"),
        ({"endpoint": "ftp://host/x"}, "http://"),
        ({"endpoint": "http://"}, "names no host"),
        ({"endpoint": "local://"}, "names no model"),
        ({"endpoint": np.zeros((2, 3))}, "endpoint must be a URL, a fanout.Endpoint or a list of those, not ndarray"),
        ({"endpoint": [Path("x")]}, "not PosixPath"),
        ({"chunk_rows": 0}, "chunk_rows must be at least 1"),
        ({"codec": 3}, "codec must be a name"),
        ({"codec": int}, "codec must be a name"),
        ({"limits": 8}, r"limits must be a fanout.Limits\(...\), not int"),
        ({"retry": 3}, "retry must be a fanout.RetryPolicy"),
        ({"timeouts": 60}, "timeouts must be a fanout.Timeouts"),
        ({"on_event": 5}, "on_event must be a function, not 5"),
        ({"on_event": asyncio.sleep}, "on_event must be a plain function, not an async one"),
        ({"count_tokens": asyncio.sleep}, "count_tokens must be a plain function, not an async one"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Client(**{"endpoint": "http://h/x", "codec": Plain, **arguments})


async def test_a_client_is_used_between_open_and_close() -> None:
    with MockEndpoint(double) as mock:
        client = Client(mock.url(Plain), codec=Plain)
        assert "not open yet" in repr(client)
        for use in (client.map(X), client.predict(X[0])):
            with pytest.raises(ClientStateError, match="not open yet"):
                await use
        with pytest.raises(ClientStateError):
            client.statistics()
        await client.open()
        with pytest.raises(ClientStateError, match="already open"):
            await client.open()
        assert np.array_equal(await client.map(X), X * 2)
        await client.close()
        await client.close()
        with pytest.raises(ClientStateError, match="closed"):
            await client.map(X)
        with pytest.raises(ClientStateError, match="closed"):
            await client.open()
        assert "closed" in repr(client)


def test_a_client_in_another_loop_says_so() -> None:
    client = Client("http://h/x", codec=Plain)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(client.open())
        with pytest.raises(ClientStateError, match="another event loop"):
            second.run(client.map(X))
        first.run(client.close())


async def test_a_client_after_a_fork_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Client("http://h/x", codec=Plain) as client:
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: -1)
            with pytest.raises(ClientStateError, match="fork"):
                await client.map(X)


async def test_map_of_input_without_a_length_names_stream() -> None:
    async with Client("http://h/x", codec=Plain) as client:
        with pytest.raises(TypeError, match="stream"):
            await client.map(iter(X))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="on_error"):
            await client.map(X, on_error="ignore")  # type: ignore[call-overload]


def test_no_secret_is_in_a_repr() -> None:
    endpoint = Endpoint(url="http://user:secret@h/x?key=secret", headers={"Authorization": "secret"})
    client = Client(endpoint, codec=Plain, headers={"X-Key": "secret"})
    assert "secret" not in repr(client) + repr(endpoint) + repr(fanout.Endpoint(url="http://h/x?secret"))


@pytest.mark.virtual_time
async def test_headers_of_endpoint_and_client_are_sent() -> None:
    with MockEndpoint(double) as mock:
        endpoint = Endpoint(url=mock.url(Plain), headers={"X-One": "1", "X-Two": "2"})
        async with Client(endpoint, codec=Plain, headers={"X-Two": "3", "user-agent": "mine"}) as client:
            await client.map(X)
    request = mock.requests[0]
    assert (request.header("X-One"), request.header("X-Two"), request.header("User-Agent")) == ("1", "3", "mine")
    assert request.header("Content-Type") == "application/json"


@pytest.mark.virtual_time
async def test_a_codec_learns_for_one_client_alone() -> None:
    class Learning(Plain):
        learnt = False

        def metadata_requests(self, url: str, responses: Sequence[fanout.Response] = ()) -> tuple[str, ...]:
            return (url.removesuffix(":predict"),)

        def with_metadata(self, responses: Sequence[fanout.Response]) -> Learning:
            assert [response.status for response in responses] == [200]
            codec = copy.copy(self)
            codec.learnt = True
            codec.max_rows = 7
            return codec

    codec = Learning()
    with MockEndpoint(double) as mock:
        async with Client(mock.url(codec), codec=codec) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert np.array_equal(await client.map(X), X * 2)
            stats = client.statistics()
    assert not codec.learnt
    assert len(mock.requests) == 6
    assert stats.requests == 7  # the metadata were asked for once


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "refused"), (302, "redirect"), (503, "metadata"), (ConnectionResetError(), "unreachable")],
)
async def test_metadata_that_cannot_be_had_stop_the_run(status: Any, kind: str) -> None:
    class Learning(Plain):
        def metadata_requests(self, url: str, responses: Sequence[fanout.Response] = ()) -> tuple[str, ...]:
            return (url,)

        def with_metadata(self, responses: Sequence[fanout.Response]) -> Codec:
            raise AssertionError

    with MockEndpoint(double) as mock:
        mock.script_metadata(*[status] * 9)
        async with Client(mock.url(Plain), codec=Learning) as client:
            with pytest.raises(RunStopped) as caught:
                await client.map(X)
    assert caught.value.kind == kind
    assert not mock.requests
    assert len(caught.value.result.ok) == 20


@pytest.mark.virtual_time
async def test_metadata_that_a_codec_cannot_do_without_are_a_config_error() -> None:
    class Learning(Plain):
        def metadata_requests(self, url: str, responses: Sequence[fanout.Response] = ()) -> tuple[str, ...]:
            return (url + "x",)

        def with_metadata(self, responses: Sequence[fanout.Response]) -> Codec:
            raise ConfigError(f"no such model: {responses[0].status}")

    with MockEndpoint(double) as mock:
        async with Client(mock.url(Plain), codec=Learning) as client:
            with pytest.raises(ConfigError, match="no such model: 404"):
                await client.map(X)


@pytest.mark.virtual_time
async def test_runs_of_one_client_share_its_limits() -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        async with Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=3)) as client:
            await asyncio.gather(*[client.map(X) for _ in range(4)])
            assert client.statistics().requests == 80
    assert mock.max_in_flight == 3


@pytest.mark.virtual_time
async def test_closing_stops_runs_under_way_and_keeps_their_answers() -> None:
    with MockEndpoint(double, latency=1.0) as mock:
        client = Client(mock.url(Plain), codec=Plain, chunk_rows=1, limits=Limits(concurrency=2))
        await client.open()
        run = asyncio.create_task(client.map(X))
        await asyncio.sleep(2.5)
        await client.close()
        with pytest.raises(RunStopped, match="the client was closed") as caught:
            await run
    assert caught.value.result.ok.sum() == 4
    assert mock.in_flight == 0


@pytest.mark.virtual_time
class TestPredict:
    async def test_concurrent_callers_share_a_request(self) -> None:
        with MockEndpoint(double, latency=0.1) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                answers = await asyncio.gather(*[client.predict(row) for row in X])
        assert np.array_equal(answers, X * 2)
        assert len(mock.requests) == 1
        assert mock.times == [pytest.approx(0.002)]

    async def test_a_full_batch_goes_at_once_and_the_rest_after_the_linger(self) -> None:
        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=8) as client:
                await asyncio.gather(*[client.predict(row) for row in X])
        assert [len(request.json()["instances"]) for request in mock.requests] == [8, 8, 4]
        assert mock.times == [0.0, 0.0, pytest.approx(0.002)]

    async def test_odd_rows_are_sent_apart(self) -> None:
        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                one, two = await asyncio.gather(client.predict(X[0]), client.predict(np.zeros(5)))
        assert one.shape == (3,)
        assert two.shape == (5,)
        assert len(mock.requests) == 2

    async def test_one_bad_row_fails_its_caller_alone(self) -> None:
        def model(x: np.ndarray) -> np.ndarray:
            if (x[:, 0] == 9).any():
                raise StatusError(422, "nine")
            return x * 2

        with MockEndpoint(model) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                answers = await asyncio.gather(*[client.predict(row) for row in X], return_exceptions=True)
        assert [i for i, answer in enumerate(answers) if isinstance(answer, Exception)] == [3]
        assert isinstance(answers[3], RowsFailed)
        assert "1 of 1 rows failed: row 0: HTTP 422" in str(answers[3])
        assert np.array_equal(answers[:3] + answers[4:], np.delete(X * 2, 3, 0))

    async def test_a_caller_that_gives_up_does_not_affect_the_others(self) -> None:
        with MockEndpoint(double, latency=1.0) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                callers = [asyncio.create_task(client.predict(row)) for row in X]
                await asyncio.sleep(0.5)
                callers[0].cancel()
                answers = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert np.array_equal(answers[1:], X[1:] * 2)

    @pytest.mark.parametrize("moment", [0.0, 0.5])
    async def test_closing_answers_waiting_calls(self, moment: float) -> None:
        with MockEndpoint(double, latency=1.0) as mock:
            client = Client(mock.url(Plain), codec=Plain)
            await client.open()
            caller = asyncio.create_task(client.predict(X[0]))
            await asyncio.sleep(moment)
            await client.close()
            with pytest.raises(ClientStateError, match="closed before"):
                await caller

    async def test_a_stop_reaches_every_caller(self) -> None:
        with MockEndpoint(double) as mock:
            mock.script(401)
            async with Client(mock.url(Plain), codec=Plain) as client:
                answers = await asyncio.gather(client.predict(X[0]), client.predict(X[1]), return_exceptions=True)
        assert all(isinstance(answer, RunStopped) for answer in answers)

    async def test_a_stop_in_the_middle_of_a_batch_takes_no_answer_away(self) -> None:
        """The batch is split; one half is answered, then the endpoint refuses."""
        with MockEndpoint(double) as mock:
            mock.script(400, None, 401)
            async with Client(mock.url(Plain), codec=Plain) as client:
                answers = await asyncio.gather(*[client.predict(row) for row in X], return_exceptions=True)
        assert np.array_equal(answers[:10], X[:10] * 2)
        assert all(isinstance(answer, RunStopped) for answer in answers[10:])

    async def test_rows_that_nothing_could_send_fail_their_callers(self) -> None:
        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec="openai-embeddings") as client:
                for row in (X[0], np.array([{}])):
                    with pytest.raises(ConfigError):
                        await client.predict(row)
        assert not mock.requests

    async def test_texts_and_dicts_are_rows_too(self) -> None:
        with MockEndpoint(lambda rows: rows) as mock:
            async with Client(mock.url("v1"), codec="v1") as client:
                text, number = await asyncio.gather(client.predict("a"), client.predict({"x": 1}))
        assert (text, number) == ("a", 1)

    async def test_closing_in_the_moment_of_sending_answers_too(self) -> None:
        with MockEndpoint(double) as mock:
            client = Client(mock.url(Plain), codec=Plain, chunk_rows=1)
            await client.open()
            caller = asyncio.create_task(client.predict(X[0]))
            await asyncio.sleep(0)
            await client.close()
            with pytest.raises(ClientStateError, match="closed before"):
                await caller

    async def test_rows_without_a_waiting_caller_are_not_sent_again(self) -> None:
        with MockEndpoint(double) as mock:
            mock.script(*[503] * 100)
            async with Client(mock.url(Plain), codec=Plain) as client:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.predict(X[0]), 0.1)
                sent = len(mock.requests)
                await asyncio.sleep(1000)
                assert len(mock.requests) == sent

    async def test_all_callers_of_a_batch_may_give_up(self) -> None:
        with MockEndpoint(double) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                caller = asyncio.create_task(client.predict(X[0]))
                await asyncio.sleep(0)
                caller.cancel()
                await asyncio.sleep(1)
        assert not mock.requests

    async def test_several_outputs_come_as_a_dict_of_one_row(self) -> None:
        with MockEndpoint(lambda x: {"sum": x.sum(axis=1), "twice": x * 2}) as mock:
            async with Client(mock.url(Plain), codec=Plain) as client:
                answer = await client.predict(X[1])
        assert answer["sum"] == 12
        assert answer["twice"].tolist() == [6, 8, 10]


def test_virtual_and_real_time_give_the_same_array() -> None:
    async def job() -> Any:
        with MockEndpoint(double, latency=0.001) as mock:
            async with Client(mock.url(Plain), codec=Plain, chunk_rows=3) as client:
                return await client.map(X)

    with asyncio.Runner() as real, asyncio.Runner(loop_factory=VirtualClock) as virtual:
        assert np.array_equal(real.run(job()), virtual.run(job()))


async def test_an_opening_that_fails_closes_the_cache(tmp_path: Path) -> None:
    class Answers:
        async def send(self, request: Request) -> Response:
            raise NotImplementedError

    credentials: Any = {"headers": {"Authorization": "Bearer sesame"}, "auth": BearerAuth(token="sesame-street")}
    client = Client("http://h/m", codec=Plain, transport=Answers(), cache=str(tmp_path / "cache"), **credentials)
    with pytest.raises(ConfigError, match="Authorization is set by auth and in headers"):
        await client.open()
    for thread in threading.enumerate():
        if thread.name == "fanout-answers":
            thread.join(10)  # its last work is done, but the system may not have ended it yet
            assert not thread.is_alive()


def test_a_codec_of_ones_own_is_short() -> None:
    assert issubclass(Plain, Codec)


async def test_an_array_that_is_let_go_is_freed_at_once() -> None:
    """Not only when the garbage collector comes by, which counts objects and not bytes."""
    with MockEndpoint(lambda x: x * 2) as mock:
        async with Client(mock.url("v1"), codec="v1", chunk_rows=10) as client:
            gc.disable()
            try:
                values = await client.map(np.arange(300.0).reshape(100, 3))
                freed = weakref.ref(values)
                del values
                assert freed() is None
            finally:
                gc.enable()

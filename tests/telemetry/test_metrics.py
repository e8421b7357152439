"""The metrics of OpenTelemetry are the statistics of the clients, and durations of requests."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from opentelemetry.trace import SpanKind

from fanout import Client, ConfigError, Limits, codec
from fanout.testing import MockEndpoint
from fanout.types import Response
from tests.support import Plain
from tests.telemetry.scene import Sdk, X


@pytest.fixture
def sdk():
    return Sdk()


async def test_several_clients_report_to_one_provider(sdk):
    first, second = sdk.telemetry(), sdk.telemetry()
    with MockEndpoint(lambda x: x) as mock:
        async with (
            Client(mock.url("v1"), codec=Plain, telemetry=first, name="a") as one,
            Client(mock.url("v1"), codec=Plain, telemetry=second, name="b") as other,
        ):
            await one.map(X)
            await other.map(X[:1])
            before = sdk.metrics()
    after = sdk.metrics()
    assert before["fanout.rows"] == {("a", "ok"): 4, ("a", "failed"): 0, ("b", "ok"): 1, ("b", "failed"): 0}
    assert before["fanout.requests.limit"] == {("a",): 16, ("b",): 16}
    assert after["fanout.rows"] == before["fanout.rows"]
    assert "fanout.requests.limit" not in after


async def test_a_second_collection_has_new_numbers(sdk):
    with MockEndpoint(lambda x: x) as mock:
        async with sdk.client(mock.url("v1")) as client:
            await client.map(X)
            first = sdk.metrics()
            await client.map(X)
            second = sdk.metrics()
    assert (first["fanout.rows"]["test", "ok"], second["fanout.rows"]["test", "ok"]) == (4, 8)


class Statuses:
    """Answers with each status of three digits in turn."""

    def __init__(self):
        self.status = 400

    async def send(self, request):
        self.status += 1
        return Response(status=self.status, headers={}, body=b"no")


@pytest.mark.virtual_time
async def test_a_server_cannot_make_ever_new_series_by_its_statuses(sdk):
    transport = Statuses()
    async with sdk.client("http://h/v1", transport=transport, limits=Limits(concurrency=4)) as client:
        while transport.status < 990:
            with pytest.raises(Exception, match=r"."):
                await client.map(X)
    durations = sdk.metrics()["http.client.request.duration"]
    assert sum(durations.values()) == transport.status - 400
    assert len(durations) < 60


MODEL = "small"


class Chat:
    """A chat API that counts tokens, and fails at first."""

    def __init__(self):
        self.n = 0

    async def send(self, request):
        self.n += 1
        if self.n == 1:
            return Response(status=503, headers={}, body=b"")
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        choice = {"index": 0, "message": {"role": "assistant", "content": "secret answer"}, "finish_reason": "stop"}
        body = orjson.dumps({"model": MODEL, "choices": [choice], "usage": usage})
        return Response(status=200, headers={"Content-Type": "application/json"}, body=body)


@pytest.mark.virtual_time
async def test_chunks_of_language_models_follow_the_conventions_on_request(sdk):
    chat = codec("openai-chat", model=MODEL)
    async with sdk.client("http://h", {"gen_ai": "openai"}, codec=chat, transport=Chat()) as client:
        await client.map(["secret prompt"])
    (span,) = sdk.named("chat small")
    assert span.kind is SpanKind.CLIENT
    assert dict(span.attributes) == {
        "fanout.rows.start": 0, "fanout.rows.stop": 1, "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai", "gen_ai.request.model": "small", "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
    }  # fmt: skip
    metrics = sdk.metrics()
    assert metrics["gen_ai.client.token.usage"] == {
        ("chat", "openai", "small", "input"): 1, ("chat", "openai", "small", "output"): 1
    }  # fmt: skip
    assert metrics["gen_ai.client.operation.duration"] == {("chat", "openai", "small"): 1}
    assert metrics["fanout.tokens"]["test", "input"] == 7
    assert "secret" not in repr([(one.attributes, one.events, one.status.description) for one in sdk.spans])


@pytest.mark.virtual_time
async def test_a_row_of_predict_is_the_operation_itself(sdk):
    chat = codec("openai-chat", model=MODEL)
    async with sdk.client("http://h", {"gen_ai": "openai"}, codec=chat, transport=Chat()) as client:
        await client.predict("a prompt")
    assert not sdk.named("fanout.batch")
    (span,) = sdk.named("chat small")
    assert span.attributes["gen_ai.usage.output_tokens"] == 5


@pytest.mark.virtual_time
async def test_without_the_request_no_span_follows_the_conventions(sdk):
    chat = codec("openai-chat", model=MODEL)
    async with sdk.client("http://h", codec=chat, transport=Chat()) as client:
        await client.map(["a"])
    assert not any(name.startswith("gen_ai") for span in sdk.spans for name in span.attributes)
    assert not any(name.startswith("gen_ai") for name in sdk.metrics())


async def test_other_codecs_have_no_operation(sdk):
    with MockEndpoint(lambda x: x) as mock:
        async with sdk.client(mock.url("v1"), {"gen_ai": "openai"}) as client:
            await client.map(np.zeros((2, 2)))
    assert sdk.named("fanout.chunk")


@pytest.mark.parametrize("gen_ai", ["", "a\nb"])
def test_a_provider_without_a_name_is_refused(sdk, gen_ai):
    with pytest.raises(ConfigError, match="gen_ai must be"):
        sdk.telemetry(gen_ai=gen_ai)

"""Runs, chunks and requests are spans of the user's tracer, with their failures and links."""

from __future__ import annotations

import asyncio

import numpy as np
import orjson
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from fanout import Client, ConfigError, Hedge, Limits, OpenTelemetry, RunStopped, Timeouts
from fanout import codec as codec_by_name
from fanout.testing import MockEndpoint, Scripted
from fanout.types import Response
from tests.telemetry.scene import Sdk, X, id_of, linked, parent_of

pytestmark = pytest.mark.virtual_time


@pytest.fixture
def sdk():
    return Sdk()


async def mapped(sdk, mock, options=None, rows=X, **client_options):
    async with sdk.client(mock.url("v1"), options, **client_options) as client:
        return await client.map(rows, on_error="keep")


async def test_a_run_its_chunks_and_their_requests_are_one_trace(sdk):
    with MockEndpoint(lambda x: x) as mock:
        await mapped(sdk, mock)
    (run,), chunks, requests = sdk.named("fanout.run"), sdk.named("fanout.chunk"), sdk.named("POST")
    assert parent_of(run) is None
    assert [parent_of(chunk) for chunk in chunks] == [id_of(run)] * 2
    assert [parent_of(request) for request in requests] == [id_of(chunk) for chunk in chunks]
    assert len({span.context.trace_id for span in sdk.spans}) == 1
    assert dict(run.attributes) == {
        "fanout.codec": "plain", "fanout.rows.total": 4, "fanout.rows.ok": 4, "fanout.rows.failed": 0,
        "fanout.rows.reused": 0, "fanout.requests": 2, "fanout.retries": 0, "fanout.splits": 0, "fanout.hedges": 0,
    }  # fmt: skip
    assert [(c.attributes["fanout.rows.start"], c.attributes["fanout.rows.stop"]) for c in chunks] == [(0, 2), (2, 4)]
    assert {span.status.status_code for span in sdk.spans} == {StatusCode.UNSET}


async def test_a_request_follows_the_http_conventions(sdk):
    with MockEndpoint(lambda x: x) as mock:
        await mapped(sdk, mock, rows=X[:1])
        url = mock.url("v1")
    (request,) = sdk.named("POST")
    assert request.kind is SpanKind.CLIENT
    assert dict(request.attributes) == {
        "http.request.method": "POST", "server.address": "fanout-mock.test", "server.port": 80, "url.full": url,
        "url.scheme": "http", "http.response.status_code": 200,
    }  # fmt: skip
    assert request.instrumentation_scope.name == "fanout"
    assert request.instrumentation_scope.schema_url.startswith("https://opentelemetry.io/schemas/")


async def test_a_run_is_in_the_trace_of_its_caller(sdk):
    tracer = sdk.tracers.get_tracer("app")
    with MockEndpoint(lambda x: x) as mock:
        with tracer.start_as_current_span("handler") as handler:
            await mapped(sdk, mock)
            assert asyncio.current_task() is not None
        async with sdk.client(mock.url("v1")) as client:
            with tracer.start_as_current_span("streaming") as streaming:
                async with client.stream(X) as results:
                    assert len([done async for done in results]) == 2
    assert [parent_of(run) for run in sdk.named("fanout.run")] == [
        handler.get_span_context().span_id,
        streaming.get_span_context().span_id,
    ]


async def test_the_current_span_is_the_callers_again_after_a_run(sdk):
    from opentelemetry.trace import get_current_span

    tracer = sdk.tracers.get_tracer("app")
    with MockEndpoint(lambda x: x) as mock, tracer.start_as_current_span("handler") as handler:
        await mapped(sdk, mock)
        assert get_current_span() is handler


async def test_a_retry_links_to_the_request_before_and_counts_the_resends(sdk):
    with MockEndpoint(lambda x: x) as mock:
        mock.script(503, Scripted(status=500, body=b'{"error": "broken"}'))
        await mapped(sdk, mock, rows=X[:2])
    first, second, third = sdk.named("POST")
    assert first.attributes["error.type"] == "503"
    assert first.status.status_code is StatusCode.ERROR
    assert linked(second) == [id_of(first)]
    assert linked(third) == [id_of(second)]
    assert [span.attributes.get("http.request.resend_count") for span in (first, second, third)] == [None, 1, 2]
    (chunk,) = sdk.named("fanout.chunk")
    assert [event.name for event in chunk.events] == ["fanout.attempt.failed"] * 2
    assert [event.attributes["http.response.status_code"] for event in chunk.events] == [503, 500]
    assert chunk.events[1].attributes["fanout.action"] == "retry"
    assert "broken" in chunk.events[1].attributes["fanout.reason"]
    assert chunk.status.status_code is StatusCode.UNSET  # it succeeded in the end


async def test_a_hedged_request_links_to_the_first(sdk):
    with MockEndpoint(lambda x: x, latency=lambda n: 5.0 if n == 41 else 0.1) as mock:
        await mapped(sdk, mock, rows=np.zeros((120, 3)), hedge=Hedge(share=1.0), limits=Limits(concurrency=2))
    hedges = [span for span in sdk.named("POST") if span.links]
    assert hedges
    by_id = {id_of(span): span for span in sdk.named("POST")}
    for hedge in hedges:
        (first,) = (by_id[one] for one in linked(hedge))
        assert parent_of(first) == parent_of(hedge)
    slow = by_id[linked(hedges[0])[0]]
    assert slow.attributes["error.type"] == "cancelled"
    assert "http.response.status_code" not in slow.attributes


async def test_the_parts_of_a_split_chunk_are_requests_of_it_that_link_to_the_whole(sdk):
    async with sdk.client("http://h/v1", chunk_rows=4, transport=RefusesNine()) as client:
        result = await client.map(X, on_error="keep")
    assert result.ok.tolist() == [True, True, True, False]
    (chunk,) = sdk.named("fanout.chunk")
    whole, *parts = sdk.named("POST")
    assert all(parent_of(span) == id_of(chunk) for span in (whole, *parts))
    assert all(len(linked(part)) == 1 for part in parts)
    assert linked(parts[0]) == [id_of(whole)]
    assert parts[0].attributes["fanout.rows.count"] < 4
    assert chunk.attributes["fanout.rows.failed"] == 1
    assert chunk.status.status_code is StatusCode.ERROR


async def test_a_request_that_takes_too_long_is_a_timeout(sdk):
    with MockEndpoint(lambda x: x, latency=lambda n: 9.0 if n == 0 else 0.1) as mock:
        await mapped(sdk, mock, rows=X[:2], timeouts=Timeouts(attempt=2.0))
    first, _ = sdk.named("POST")
    assert first.attributes["error.type"] == "timeout"
    assert sdk.metrics()["http.client.request.duration"]["POST", "fanout-mock.test", 80, "http", "timeout"] == 1


async def test_a_broken_connection_has_the_type_of_its_error(sdk):
    with MockEndpoint(lambda x: x) as mock:
        mock.script(ConnectionResetError())
        await mapped(sdk, mock, rows=X[:2])
    first, _ = sdk.named("POST")
    assert first.attributes["error.type"] in ("IncompleteResponse", "TransportError", "ConnectError")


async def test_a_run_that_stops_is_an_error_with_its_kind(sdk):
    with MockEndpoint(lambda x: x) as mock:
        mock.script(401)
        with pytest.raises(RunStopped):
            await mapped(sdk, mock)
    (run,) = sdk.named("fanout.run")
    assert run.attributes["error.type"] == "refused"
    assert "401" in run.status.description
    (chunk,) = sdk.named("fanout.chunk")
    assert chunk.attributes["error.type"] == "pending"


async def test_a_cancelled_run_ends_all_of_its_spans(sdk):
    with MockEndpoint(lambda x: x, latency=60.0) as mock:
        task = asyncio.create_task(mapped(sdk, mock, limits=Limits(concurrency=2)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, RunStopped)):
            await task
    assert [span.name for span in sdk.spans].count("POST") == 2
    assert len(sdk.named("fanout.chunk")) == 2
    assert len(sdk.named("fanout.run")) == 1


async def test_chunks_can_be_traces_of_their_own(sdk):
    with MockEndpoint(lambda x: x) as mock:
        await mapped(sdk, mock, {"chunk_traces": True})
    (run,), chunks, requests = sdk.named("fanout.run"), sdk.named("fanout.chunk"), sdk.named("POST")
    assert len({span.context.trace_id for span in (run, *chunks)}) == 3
    assert [linked(chunk) for chunk in chunks] == [[id_of(run)]] * 2
    assert [parent_of(request) for request in requests] == [id_of(chunk) for chunk in chunks]


async def test_a_batch_of_predict_is_in_the_trace_of_one_caller_and_links_to_the_others(sdk):
    tracer = sdk.tracers.get_tracer("app")

    async def handler(client, row):
        with tracer.start_as_current_span("handler"):
            return await client.predict(row)

    with MockEndpoint(lambda x: x) as mock:
        async with sdk.client(mock.url("v1"), chunk_rows=4) as client:
            await asyncio.gather(*(handler(client, row) for row in X[:3]))
    handlers, (batch,), (request,) = sdk.named("handler"), sdk.named("fanout.batch"), sdk.named("POST")
    assert not sdk.named("fanout.chunk")
    assert parent_of(request) == id_of(batch)
    assert {parent_of(batch), *linked(batch)} == {id_of(one) for one in handlers}
    assert len(linked(batch)) == 2
    assert mock.requests[0].headers["traceparent"].split("-")[1] == f"{batch.context.trace_id:032x}"


async def test_a_batch_follows_the_caller_who_is_sampled():
    sdk = Sdk()
    unsampled = Sdk(sampler=ALWAYS_OFF)

    async def handler(client, row, tracers):
        with tracers.get_tracer("app").start_as_current_span("handler"):
            return await client.predict(row)

    sdk.sampler = ParentBased(ALWAYS_OFF)
    with MockEndpoint(lambda x: x) as mock:
        async with sdk.client(mock.url("v1"), chunk_rows=4) as client:
            await asyncio.gather(
                handler(client, X[0], unsampled.tracers), handler(client, X[1], sdk.tracers),
                handler(client, X[2], unsampled.tracers),
            )  # fmt: skip
    (sampled,), (batch,) = sdk.named("handler"), sdk.named("fanout.batch")
    assert parent_of(batch) == id_of(sampled)
    assert len(batch.links) == 2


async def test_rows_from_the_cache_make_no_chunk(sdk, tmp_path):
    with MockEndpoint(lambda x: x) as mock:
        for _ in range(2):
            await mapped(sdk, mock, cache=str(tmp_path / "cache.sqlite"))
    first, second = sdk.named("fanout.run")
    assert (first.attributes["fanout.rows.reused"], second.attributes["fanout.rows.reused"]) == (0, 4)
    assert len(sdk.named("fanout.chunk")) == 2
    assert sdk.metrics()["fanout.rows.reused"]["test", "cache"] == 4


async def test_equal_rows_that_share_a_request_leave_no_chunk_open(sdk):
    rows = np.array([[1.0], [2.0], [1.0], [3.0], [2.0], [1.0], [4.0]])
    with MockEndpoint(lambda x: x, latency=0.1) as mock:
        result = await mapped(sdk, mock, rows=rows, dedupe=True, limits=Limits(concurrency=3))
    assert (result.values == rows).all()
    (run,) = sdk.named("fanout.run")
    assert run.attributes["fanout.rows.reused"] == 3
    assert all(span.status.status_code is StatusCode.UNSET for span in sdk.named("fanout.chunk"))


class RefusesNine:
    """A transport that refuses requests with a nine in them."""

    async def send(self, request):
        rows = orjson.loads(request.joined())["instances"]
        if 9.0 in [row[0] for row in rows]:
            return Response(status=400, headers={}, body=b"no nines")
        body = orjson.dumps({"predictions": rows})
        return Response(status=200, headers={"Content-Type": "application/json"}, body=body)


class Jobs:
    """An asynchronous API: a POST starts a job, which has ended at the second GET."""

    def __init__(self):
        self.gets = 0
        self.headers = []

    async def send(self, request):
        self.headers.append(dict(request.headers))
        fields = {"Content-Type": "application/json"}
        if request.method == "POST":
            return Response(status=202, headers=fields | {"Location": "/jobs/1"}, body=b'{"state": "queued"}')
        self.gets += 1
        body = b'{"state": "done", "predictions": [1, 2]}' if self.gets == 2 else b'{"state": "running"}'
        return Response(status=200, headers=fields, body=body)


async def test_the_polls_of_a_job_link_to_the_request_that_started_it(sdk):
    codec = codec_by_name(
        "json", request={"texts": "{{rows}}"}, answers="predictions",
        poll={"url": "header:Location", "until": "state == 'done'", "every": 1.0},
    )  # fmt: skip
    jobs = Jobs()
    async with sdk.client("http://h/run", codec=codec, transport=jobs) as client:
        await client.map([1, 2])
    (start,), polls = sdk.named("POST"), sdk.named("GET")
    assert len(polls) == 2
    assert [linked(poll) for poll in polls] == [[id_of(start)]] * 2
    assert {parent_of(span) for span in (start, *polls)} == {id_of(sdk.named("fanout.chunk")[0])}
    assert polls[0].attributes["url.full"] == "http://h/jobs/1"


async def test_two_telemetries_that_trace_are_refused(sdk):
    with pytest.raises(ConfigError, match="counted twice"):
        Client("http://h/v1", codec="v1", telemetry=[sdk.telemetry(), sdk.telemetry()])


@pytest.mark.parametrize("telemetry", [3, "otel", [OpenTelemetry], object()])
def test_a_telemetry_of_another_type_is_refused(telemetry):
    with pytest.raises(ConfigError, match="telemetry must be"):
        Client("http://h/v1", codec="v1", telemetry=telemetry)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 65, 3])
def test_a_name_that_no_label_can_hold_is_refused(name):
    with pytest.raises(ConfigError, match="name must be"):
        Client("http://h/v1", codec="v1", name=name)

"""Requests carry the context of their trace in their header, and nothing else of the user's telemetry."""

from __future__ import annotations

import orjson
import pytest
from opentelemetry import baggage, context, propagate
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from fanout import BearerAuth, Client, ConfigError
from fanout.testing import FaultServer, MockEndpoint, Recorder
from fanout.types import Response
from tests.loopback import loopback
from tests.support import Plain
from tests.telemetry.scene import Sdk, X, id_of

BODY = b'{"predictions": [[1.0], [2.0]]}'


@pytest.fixture
def sdk():
    return Sdk()


def trace_parent(span):
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


async def test_each_request_on_the_fast_path_has_the_context_of_its_own_span(sdk):
    async with FaultServer(lambda x: x) as server:
        server.script(None, 503)
        async with sdk.client(server.url("v1"), codec="v1") as client:
            await client.map(X)
            await client.map(X)
    sent = [request.headers["traceparent"] for request in server.requests]
    assert sent == [trace_parent(span) for span in sdk.named("POST")]
    assert len(set(sent)) == 5


async def test_the_bytes_of_a_head_are_as_without_telemetry_but_for_the_context(sdk):
    heads = []

    async def answer(request, line):
        heads.append(request)
        await line.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY
        )

    async with loopback(answer) as server:
        for telemetry in (None, sdk.telemetry()):
            async with Client(server.url, codec=Plain, chunk_rows=2, telemetry=telemetry) as client:
                await client.map(X[:2])
    plain, traced = heads
    assert plain.line == traced.line
    assert traced.headers == {**plain.headers, "traceparent": trace_parent(sdk.named("POST")[0])}
    assert traced.body == plain.body


async def test_the_session_of_aiohttp_sends_it_too(sdk):
    with MockEndpoint(lambda x: x) as mock:
        async with sdk.client(mock.url("v1")) as client:
            await client.map(X[:2])
    assert mock.requests[0].headers["traceparent"] == trace_parent(sdk.named("POST")[0])


async def test_an_unsampled_request_says_so():
    sdk = Sdk(sampler=ALWAYS_OFF)
    with MockEndpoint(lambda x: x) as mock:
        async with sdk.client(mock.url("v1")) as client:
            assert (await client.map(X) == X).all()
    assert not sdk.spans
    assert not any(int(request.headers["traceparent"][-2:], 16) & 1 for request in mock.requests)


async def test_propagation_can_be_switched_off(sdk):
    with MockEndpoint(lambda x: x) as mock:
        async with sdk.client(mock.url("v1"), {"propagate": False}) as client:
            await client.map(X)
    assert not any("traceparent" in request.headers for request in mock.requests)


@pytest.mark.parametrize("given", [False, True])
async def test_baggage_stays_home_unless_it_is_asked_for(sdk, given):
    token = context.attach(baggage.set_baggage("user", "alice"))
    try:
        with MockEndpoint(lambda x: x) as mock:
            async with sdk.client(mock.url("v1"), {"baggage": given}) as client:
                await client.map(X[:2])
    finally:
        context.detach(token)
    assert ("baggage" in mock.requests[0].headers) == given


def test_baggage_without_propagation_is_refused(sdk):
    with pytest.raises(ConfigError, match="needs propagate"):
        sdk.telemetry(propagate=False, baggage=True)


async def test_a_header_of_the_users_with_the_same_name_is_replaced_not_doubled(sdk):
    options = {"codec": "v1", "headers": {"TraceParent": "mine"}}
    async with FaultServer(lambda x: x) as server, sdk.client(server.url("v1"), **options) as client:
        await client.map(X[:2])
    values = [value for name, value in server.requests[0].headers.items() if name.lower() == "traceparent"]
    assert values == [trace_parent(sdk.named("POST")[0])]


class Breaks:
    """A propagator that writes what no header can hold."""

    fields = frozenset({"x-trace"})

    def __init__(self, name, value):
        self.name, self.value = name, value

    def inject(self, carrier, context=None, setter=None):
        carrier[self.name] = self.value

    def extract(self, *_):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("name", "value"), [("x-trace", "a\r\nEvil: 1"), ("x-trace", "a\x00"), ("x-trace", "ä"), ("a b", "c"),
                        ("Content-Length", "3"), ("Transfer-Encoding", "chunked")],
)  # fmt: skip
async def test_no_propagator_can_break_a_head(sdk, name, value, monkeypatch):
    monkeypatch.setattr(propagate, "propagator", Breaks(name, value))
    async with FaultServer(lambda x: x) as server, sdk.client(server.url("v1"), codec="v1") as client:
        assert (await client.map(X) == X).all()
    sent = {name.lower(): value for name, value in server.requests[0].headers.items()}
    assert "evil" not in sent
    assert "x-trace" not in sent
    assert sent["content-length"] != "3"
    assert "transfer-encoding" not in sent


class Elsewhere:
    """Starts a job whose state is at another origin."""

    def __init__(self):
        self.requests = []

    async def send(self, request):
        self.requests.append(request)
        fields = {"Content-Type": "application/json"}
        if request.method == "POST":
            return Response(status=202, headers=fields | {"Location": "https://jobs.test/1"}, body=b"{}")
        return Response(status=200, headers=fields, body=b'{"done": true, "predictions": [1, 2]}')


@pytest.mark.virtual_time
async def test_the_context_goes_to_no_other_origin(sdk):
    from fanout import codec

    poll = {"url": "header:Location", "until": "done", "every": 1.0, "origins": ["https://jobs.test"]}
    codec_ = codec("json", request={"texts": "{{rows}}"}, answers="predictions", poll=poll)
    transport = Elsewhere()
    async with sdk.client("http://h/run", codec=codec_, transport=transport) as client:
        await client.map([1, 2])
    post, get = transport.requests
    assert "traceparent" in post.headers
    assert "traceparent" not in get.headers
    assert sdk.named("GET")[0].attributes["server.address"] == "jobs.test"


async def test_a_recording_has_no_context_of_a_trace(sdk, tmp_path):
    path = tmp_path / "x.cassette"
    with MockEndpoint(lambda x: x) as mock, Recorder(path) as recorder:
        async with sdk.client(mock.url("v1"), transport=recorder) as client:
            await client.map(X)
    assert "traceparent" in mock.requests[0].headers
    assert b"traceparent" not in path.read_bytes()


class Repeats:
    """Refuses requests, with their URL and header in its words, but for every third."""

    def __init__(self):
        self.n = 0

    async def send(self, request):
        self.n += 1
        if self.n % 3:
            body = orjson.dumps({"error": f"{request.url} {dict(request.headers)}"})
            return Response(status=503, headers={}, body=body)
        return Response(status=200, headers={"Content-Type": "application/json"}, body=BODY)


async def test_no_secret_reaches_a_span_or_a_metric(sdk):
    secret, query = "token-abcdef123456", "query-abcdef123456"
    url = f"http://user:password99@h/v1?key={query}"
    options = {"headers": {"X-Key": secret}, "name": f"client {secret}", "transport": Repeats()}
    async with sdk.client(url, **options) as client:
        await client.map(X, on_error="keep")
        metrics = sdk.metrics()
    shown = repr([(span.name, dict(span.attributes), span.events, span.status.description) for span in sdk.spans])
    shown += repr(metrics)
    assert "fanout.requests.in_flight" in metrics
    assert "error.type" in shown
    for hidden in (secret, query, "password99"):
        assert hidden not in shown


class Refuses:
    """Refuses a request in words that hold its token and control characters."""

    async def send(self, request):
        words = f"\x1b[31m {request.headers['Authorization']} \x07\u202e"
        return Response(status=400, headers={}, body=orjson.dumps({"error": words}))


async def test_a_reason_is_redacted_and_escaped(sdk):
    async with sdk.client("http://h/v1", transport=Refuses(), auth=BearerAuth(token="sk-abcdef123456")) as client:
        with pytest.raises(Exception, match="400"):
            await client.map(X[:1])
    (chunk,) = sdk.named("fanout.chunk")
    shown = [chunk.status.description, *(event.attributes["fanout.reason"] for event in chunk.events)]
    assert len(shown) > 1
    assert all("***" in text and "abcdef" not in text and text.isprintable() for text in shown)


async def test_a_resend_after_renewed_credentials_is_a_request_of_its_own(sdk):
    tokens = iter(["old", "new"])
    with MockEndpoint(lambda x: x) as mock:
        mock.script(401, None)
        async with sdk.client(mock.url("v1"), headers=lambda: {"Authorization": next(tokens)}) as client:
            await client.map(X[:2])
    first, second = sdk.named("POST")
    assert first.attributes["http.response.status_code"] == 401
    assert [link.context.span_id for link in second.links] == [id_of(first)]

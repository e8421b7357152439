"""The metrics of a client: a table of names, units and the numbers of `Statistics` that they are made of.

OpenTelemetry and Prometheus have the same metrics, each in its own spelling. All labels are bounded: they are names of
outcomes, the name of the client, and the URLs of its endpoints without secrets.

`GenAI` describes the chunks that a language model answers by the GenAI conventions of OpenTelemetry:
https://opentelemetry.io/docs/specs/semconv/gen-ai/ (status: development). No prompt and no answer is recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from fanout._escape import escaped, shortened
from fanout.usage import token_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import Span

    from fanout.codecs.base import Codec
    from fanout.results import EndpointStatistics, Statistics

Labels: TypeAlias = tuple[str, ...]
Read: TypeAlias = "Callable[[Statistics, int], Iterable[tuple[Labels, float]]]"

OTHER = "other"
"""Label of all that is beyond a bound."""

# Each value of a label is a series of its own, which a server of metrics keeps for months.
_MOST_ENDPOINTS = 20
_LONGEST_LABEL = 200

# The bounds are those of the conventions.
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)


class Metric(NamedTuple):
    """One metric, and its numbers in a snapshot."""

    name: str
    kind: Literal["counter", "sum", "gauge"]
    """``"counter"`` never falls. The values of clients of one name are added up, except those of a ``"gauge"``: the
    largest counts."""

    unit: str
    description: str
    labels: Labels
    """Names of the labels beside that of the client."""

    read: Read
    """Takes statistics and the limit of requests in flight. Returns values of the labels, each with a number."""


def label(text: str) -> str:
    """Return a text of bounded length, without control characters."""
    return shortened(escaped(text), _LONGEST_LABEL)


def _by_endpoint(number: Callable[[EndpointStatistics], float]) -> Read:
    # By position, so that an endpoint keeps its label for the life of the client.
    return lambda stats, _: [
        ((label(one.url) if n < _MOST_ENDPOINTS else OTHER,), number(one)) for n, one in enumerate(stats.endpoints)
    ]


METRICS = (
    Metric(
        "fanout.rows", "counter", "{row}", "Rows that are done, by outcome.", ("outcome",),
        lambda stats, _: [(("ok",), stats.ok), (("failed",), stats.failed)],
    ),
    Metric(
        "fanout.rows.reused", "counter", "{row}", "Rows answered without a request of their own.", ("source",),
        lambda stats, _: [(("cache",), stats.cached), (("duplicate",), stats.shared)],
    ),
    Metric(
        "fanout.requests", "counter", "{request}", "HTTP requests, of every kind.", ("endpoint",),
        _by_endpoint(lambda endpoint: endpoint.requests),
    ),
    Metric(
        "fanout.retries", "counter", "{request}", "Further requests for the same rows.", (),
        lambda stats, _: [((), stats.retries)],
    ),
    Metric("fanout.splits", "counter", "{chunk}", "Chunks cut in two.", (), lambda stats, _: [((), stats.splits)]),
    Metric(
        "fanout.hedges", "counter", "{request}", "Second requests for rows whose first response took long.", (),
        lambda stats, _: [((), stats.hedges)],
    ),
    Metric(
        "fanout.requests.in_flight", "sum", "{request}", "Requests in flight.", ("endpoint",),
        _by_endpoint(lambda endpoint: endpoint.in_flight),
    ),
    Metric(
        "fanout.requests.limit", "sum", "{request}", "Limit of requests in flight.", (),
        lambda _, limit: [((), limit)],
    ),
    Metric(
        "fanout.chunks.waiting", "sum", "{chunk}", "Chunks that wait for their next attempt.", (),
        lambda stats, _: [((), stats.backing_off)],
    ),
    Metric(
        "fanout.endpoint.available", "gauge", "1", "1 for an endpoint in use, 0 if it is ejected or excluded.",
        ("endpoint",), _by_endpoint(lambda endpoint: float(endpoint.state == "in use")),
    ),
    Metric(
        "fanout.bodies", "counter", "By", "Bytes of the bodies of requests and responses.", ("direction",),
        lambda stats, _: [(("sent",), stats.bytes_sent), (("received",), stats.bytes_received)],
    ),
    # An API without usage would otherwise show as one that counts no tokens.
    Metric(
        "fanout.tokens", "counter", "{token}", "Tokens that the API reports, by type.", ("type",),
        lambda stats, _: [((name,), n) for name, n in stats.tokens._asdict().items()] if stats.usage else [],
    ),
    # An unknown cost is no cost of 0.
    Metric(
        "fanout.cost", "counter", "1", "Cost at the prices of the client, in its currency.", ("currency",),
        lambda stats, _: [] if stats.cost is None else [((stats.currency or "",), stats.cost)],
    ),
)  # fmt: skip


class Operation(NamedTuple):
    """Operation of a client at a language model."""

    name: str
    """Name of its spans: the operation and the model."""

    attributes: dict[str, str]


class GenAI:
    """Describes the chunks of codecs for language models of a provider."""

    def __init__(self, provider: str, meter: Meter) -> None:
        self._provider = label(provider)
        self._tokens: Histogram = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )  # fmt: skip
        self._duration: Histogram = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )  # fmt: skip

    def operation(self, codec: Codec) -> Operation | None:
        """Return the operation of a codec; None for one that asks no language model."""
        if not codec.operation:
            return None
        # Names and values are those of the conventions' registry.
        attributes = {"gen_ai.operation.name": codec.operation, "gen_ai.provider.name": self._provider}
        if codec.model is None:
            return Operation(codec.operation, attributes)
        model = label(codec.model)
        return Operation(f"{codec.operation} {model}", attributes | {"gen_ai.request.model": model})

    def record(
        self, operation: Operation, span: Span, usage: Mapping[str, int], seconds: float, error: str | None
    ) -> None:
        """Record a chunk that has ended: its tokens and its duration."""
        counts, attributes = token_counts(usage), operation.attributes
        for kind, n in (("input", counts.input), ("output", counts.output)):
            # An embedding has no output tokens: a histogram of zeros would show a model that answers nothing.
            if n:
                span.set_attribute(f"gen_ai.usage.{kind}_tokens", n)
                self._tokens.record(n, attributes | {"gen_ai.token.type": kind})
        self._duration.record(seconds, attributes if error is None else attributes | {"error.type": error})

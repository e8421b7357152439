"""An SDK of OpenTelemetry in memory, and a client that uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from fanout import Client, Limits, OpenTelemetry, RetryPolicy
from tests.support import Plain

X = np.arange(12.0).reshape(4, 3)
QUICK = RetryPolicy(initial_backoff=0.01, max_backoff=0.02)


@dataclass
class Sdk:
    """The spans and metrics of one test."""

    sampler: Sampler = ALWAYS_ON
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)

    def __post_init__(self) -> None:
        self.tracers = TracerProvider(sampler=self.sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)

    def telemetry(self, **options: Any) -> OpenTelemetry:
        return OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    def client(self, url: str, options: dict[str, Any] | None = None, **client_options: Any) -> Client:
        """A client that sends two rows in a request, one request at a time. ``options`` are those of the telemetry."""
        defaults = {"codec": Plain, "chunk_rows": 2, "limits": Limits(concurrency=1), "retry": QUICK, "name": "test"}
        return Client(url, telemetry=self.telemetry(**options or {}), **defaults | client_options)

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order of their beginning."""
        # Spans of virtual time begin at nearly the same time of the clock on the wall.
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def metrics(self) -> dict[str, dict[tuple[Any, ...], Any]]:
        """Metric to the values of its attributes to its number, or to the count of its histogram."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: {
                tuple((point.attributes or {}).values()): getattr(point, "value", getattr(point, "count", None))
                for point in metric.data.data_points
            }
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    return span.get_span_context().span_id


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]

"""Spans and metrics for OpenTelemetry: the option ``telemetry`` of a client that connects it with the user's SDK.

Only the API is needed here. Without an SDK, or with one that samples nothing, its calls do next to nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fanout._version import __version__
from fanout.errors import ConfigError, needs_extra
from fanout.telemetry.clients import FollowedClients, Telemetry
from fanout.telemetry.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import TracerProvider

    from fanout.telemetry.clients import Reading
    from fanout.telemetry.metrics import Metric

_SCOPE = "fanout"
_SCHEMA = "https://opentelemetry.io/schemas/1.37.0"

# Of the HTTP conventions: https://opentelemetry.io/docs/specs/semconv/http/http-metrics/
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class OpenTelemetry(Telemetry):
    """Spans and metrics of any number of clients: ``Client(..., telemetry=fanout.OpenTelemetry())``.

    A run is a span in the trace of its caller. Its chunks are spans below it, and their HTTP requests spans below these
    (HTTP client conventions); a retry, a hedged request and a part of a split chunk link to the request before. A batch
    of `predict` is in the trace of a caller that is sampled, and links to the others. Requests carry the context of
    their trace (``traceparent``). No span and no metric holds a secret or a control character; rows and answers are not
    shown, but for what a server quotes of them in the reason of a failure.

    Args:
        tracer_provider: makes the spans; the global one if not given.
        meter_provider: makes the metrics; the global one if not given.
        propagate: requests carry the context of their trace, by the global propagator. Requests to other origins than
            the endpoint's never do.
        baggage: they carry the caller's baggage, too. It may hold what an external API should not see.
        chunk_traces: each chunk is a trace of its own that links to the run, so that a sampler decides about each, and
            no trace grows with the input.
        gen_ai: the provider's name in the GenAI conventions, such as ``"openai"``; the chunks of codecs for language
            models then follow these. They are not stable yet, so they are left out if not given.

    Raises:
        ConfigError: the OpenTelemetry API is missing, or an option cannot be used.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagate: bool = True,
        baggage: bool = False,
        chunk_traces: bool = False,
        gen_ai: str | None = None,
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ImportError:
            raise needs_extra("fanout.OpenTelemetry", "otel", key="telemetry") from None
        if baggage and not propagate:
            raise ConfigError("baggage travels with the context of a trace: it needs propagate", key="baggage")
        if gen_ai is not None and not (gen_ai and gen_ai.isprintable()):
            raise ConfigError(f"gen_ai must be the name of a provider, not {gen_ai!r}", key="gen_ai")
        # That module imports the API of OpenTelemetry, an extra, as it is loaded.
        from fanout.telemetry.spans import SpanTracing

        tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider, _SCHEMA)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider, _SCHEMA)
        duration = meter.create_histogram(
            "http.client.request.duration", "s", "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )  # fmt: skip
        self.tracing = SpanTracing(
            tracer, meter, duration, propagates=propagate, baggage=baggage, chunk_traces=chunk_traces, gen_ai=gen_ai
        )
        self._clients = _clients_of(meter_provider or metrics.get_meter_provider(), meter)
        self._is_global = tracer_provider is None and meter_provider is None
        self._options: dict[str, Any] = {
            "propagate": propagate, "baggage": baggage, "chunk_traces": chunk_traces, "gen_ai": gen_ai
        }  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._is_global:
            problem = "providers belong to one process: leave them out, and each process uses its global ones"
            raise ConfigError(problem, key="telemetry")
        return partial(OpenTelemetry, **self._options), ()


# The API has no way to remove an instrument, and a second one of the same name would report the same clients again.
_CLIENTS: WeakKeyDictionary[Any, FollowedClients] = WeakKeyDictionary()


def _clients_of(provider: MeterProvider, meter: Meter) -> FollowedClients:
    """Return the clients whose metrics are reported to ``provider``."""
    if provider not in _CLIENTS:
        _CLIENTS[provider] = clients = FollowedClients()
        _Observer(clients, meter)
    return _CLIENTS[provider]


class _Observer:
    """An observable instrument for each metric. The SDK calls them when it collects, on a thread of its own."""

    def __init__(self, clients: FollowedClients, meter: Meter) -> None:
        self._clients = clients
        self._readings: dict[str, Reading] = {}
        self._served = set(METRICS)
        create = {
            "counter": meter.create_observable_counter,
            "sum": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for metric in METRICS:
            create[metric.kind](metric.name, [self._callback(metric)], metric.unit, metric.description)

    def _callback(self, metric: Metric) -> Any:
        from opentelemetry.metrics import Observation

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            # Each reading asks the loops of all clients, and serves one collection of all instruments.
            if metric in self._served:
                self._served.clear()
                self._readings = self._clients.read()
            self._served.add(metric)
            names = ["fanout.client", *(f"fanout.{name}" for name in metric.labels)]
            return [
                Observation(number, dict(zip(names, [name, *labels], strict=True)))
                for name, reading in self._readings.items()
                for (one, labels), number in reading.numbers.items()
                if one is metric
            ]

        return observe

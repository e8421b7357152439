"""Metrics for Prometheus: a collector of any number of clients, and a server that shows them to a scraper.

https://prometheus.github.io/client_python/collector/custom/
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fanout.errors import ConfigError, needs_extra
from fanout.statistics import Latencies
from fanout.telemetry.clients import FollowedClients, Telemetry
from fanout.telemetry.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family

    from fanout.telemetry.clients import Reading
    from fanout.telemetry.metrics import Metric

_DURATION = "fanout_request_duration_seconds"
_ABOUT_DURATION = "Duration of an HTTP exchange, whatever its outcome; the sum is right within 3 %."

# Powers of two are bounds of the buckets of `Latencies`, so these counts are exact: 4 ms to 128 s.
_BOUNDS = [2.0**exponent for exponent in range(-8, 8)]
_UNITS = {"By": "_bytes"}

HOST = "127.0.0.1"
"""Address of the server of metrics: they are for this machine alone."""


class Prometheus(Telemetry):
    """A collector for Prometheus, of any number of clients: ``Client(..., telemetry=fanout.Prometheus())``.

    A scrape reads the statistics of the clients, and nothing is added to their requests. It may come from any thread.
    Series of several clients have the label ``client``, the name of the client. The counters of a closed client stay.

    Args:
        registry: the registry of ``prometheus_client`` that the collector is added to; the default one if not given.

    Raises:
        ConfigError: prometheus_client is missing, or the registry has such a collector.
    """

    _of_process: ClassVar[Prometheus | None] = None
    """The collector in the default registry, which takes no second one."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        try:
            from prometheus_client import REGISTRY
        except ImportError:
            raise needs_extra("fanout.Prometheus", "prometheus", key="telemetry") from None
        self._clients = FollowedClients()
        try:
            (REGISTRY if registry is None else registry).register(self)
        except ValueError:
            problem = "this registry has a fanout.Prometheus: give that one to all clients"
            raise ConfigError(problem, key="telemetry") from None
        if registry is None:
            # Pickled settings of a client refer to this one, since the other process has a default registry as well.
            Prometheus._of_process = self

    def __reduce__(self) -> tuple[Any, ...]:
        if self is not Prometheus._of_process:
            problem = "a registry belongs to one process: leave it out, and each process uses its default one"
            raise ConfigError(problem, key="telemetry")
        return Prometheus._restored, ()

    @classmethod
    def _restored(cls) -> Prometheus:
        """Return the collector of the process to which one was pickled."""
        return cls._of_process or cls()

    def describe(self) -> Iterator[Family]:
        """Yield the metrics without numbers, by which a registry finds two of one name."""
        yield from (_family(metric) for metric in METRICS)
        yield _duration_family()

    def collect(self) -> Iterator[Family]:
        """Yield the metrics of all clients. `prometheus_client` calls this for each scrape."""
        readings = self._clients.read()
        families = {metric: _family(metric) for metric in METRICS}
        durations = _duration_family()
        for name, reading in sorted(readings.items()):
            for (metric, labels), number in reading.numbers.items():
                families[metric].add_metric([name, *labels], number)
            durations.add_metric([name], *_histogram(reading))
        yield from families.values()
        yield durations


@contextmanager
def serve_metrics(port: int) -> Iterator[tuple[Prometheus, str]]:
    """Serve the metrics of clients on the loopback interface while entered. Yields their collector and the URL.

    Raises `ConfigError` without prometheus_client, and for a port that is taken.

    Args:
        port: 0 takes a free one.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise needs_extra("serving metrics", "prometheus", key="telemetry") from None
    # A registry of its own: the page shows the metrics of this run, and none of the process around it.
    registry = CollectorRegistry(auto_describe=False)
    collector = Prometheus(registry)
    try:
        server, thread = start_http_server(port, HOST, registry)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"metrics cannot be served at {HOST}:{port}: {reason}", key="metrics_port") from None
    try:
        yield collector, f"http://{HOST}:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _family(metric: Metric) -> Any:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    # Prometheus has one type for all numbers that may fall: "sum" and "gauge" are alike here.
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    name = metric.name.replace(".", "_") + _UNITS.get(metric.unit, "")
    return kind(name, metric.description, labels=["client", *metric.labels])


def _duration_family() -> Any:
    from prometheus_client.metrics_core import HistogramMetricFamily

    return HistogramMetricFamily(_DURATION, _ABOUT_DURATION, labels=["client"])


def _histogram(reading: Reading) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative counts at the bounds, and the sum in seconds."""
    counts, edges = reading.latencies.counts, Latencies.edges()
    seen = np.concatenate([[0], np.cumsum(counts)])
    buckets = [(str(bound), float(seen[np.searchsorted(edges, bound)])) for bound in _BOUNDS]
    # Only counts are kept of latencies, so that the sum takes each at the middle of its bucket.
    middles = (edges[:-1] + edges[1:]) / 2
    return [*buckets, ("+Inf", float(seen[-1]))], float(counts @ middles)

"""The telemetry of a job's run: spans and metrics for OpenTelemetry, and a server of metrics for Prometheus."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fanout.errors import ConfigError
from fanout.telemetry import OpenTelemetry, serve_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.job.model import Job
    from fanout.telemetry import Telemetry


def open_telemetry_of(job: Job) -> list[Telemetry]:
    """Return the OpenTelemetry of a job, if it wants that. Raises `ConfigError` without its API."""
    table = job.tables.telemetry
    if not table.opentelemetry:
        return []
    try:
        return [
            OpenTelemetry(
                propagate=table.propagate, baggage=table.baggage, chunk_traces=table.chunk_traces, gen_ai=table.gen_ai
            )
        ]
    except ConfigError as error:
        key = error.key if error.key != "telemetry" else "opentelemetry"
        raise ConfigError(str(error), key=f"telemetry.{key}") from None


@contextmanager
def serving_metrics(job: Job) -> Iterator[list[Telemetry]]:
    """Serve the metrics of a job while entered, if it has a port for them. Yields their collector.

    Raises `ConfigError` if the port is taken, or prometheus_client is missing.
    """
    with ExitStack() as stack:
        collectors: list[Telemetry] = []
        if (port := job.tables.telemetry.metrics_port) is not None:
            try:
                collector, _ = stack.enter_context(serve_metrics(port))
            except ConfigError as error:
                raise ConfigError(str(error), key="telemetry.metrics_port") from None
            collectors.append(collector)
        yield collectors

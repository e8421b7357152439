"""Telemetry of clients: spans and metrics for OpenTelemetry, metrics for Prometheus.

A client takes objects of `Telemetry` as its option ``telemetry``. Nothing of this package is imported without one.
"""

from __future__ import annotations

from fanout.telemetry.clients import Telemetry
from fanout.telemetry.opentelemetry import OpenTelemetry
from fanout.telemetry.prometheus import Prometheus, serve_metrics

__all__ = ["OpenTelemetry", "Prometheus", "Telemetry", "serve_metrics"]

"""Telemetry never harms a run: no SDK that fails or is missing, and no collector that cannot be reached."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from unittest import mock as patches

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from fanout import Client, ConfigError, OpenTelemetry, Prometheus
from fanout.testing import MockEndpoint
from tests.support import Plain
from tests.telemetry.scene import QUICK, Sdk, X


class Fails(SpanProcessor):
    """Raises in each of its methods."""

    def on_start(self, *_, **__):
        raise RuntimeError("on_start")

    def on_end(self, *_):
        raise RuntimeError("on_end")


class FailsAtTheEnd(SpanProcessor):
    def on_end(self, *_):
        raise RuntimeError("on_end")


@pytest.mark.parametrize("processor", [Fails, FailsAtTheEnd])
async def test_an_sdk_that_raises_costs_no_row_and_is_logged_once(processor, caplog):
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(processor())
    telemetry = OpenTelemetry(tracer_provider=tracers, meter_provider=MeterProvider(shutdown_on_exit=False))
    with MockEndpoint(lambda x: x) as mock:
        mock.script(503)
        async with Client(mock.url("v1"), codec=Plain, chunk_rows=2, retry=QUICK, telemetry=telemetry) as client:
            assert (await client.map(X) == X).all()
            assert (await client.predict(X[0]) == X[0]).all()
    assert [record.message for record in caplog.records if "OpenTelemetry" in record.message] == [
        "OpenTelemetry raised RuntimeError: spans or metrics are missing"
    ]


class Hangs(SpanExporter):
    """A collector that does not answer."""

    def __init__(self):
        self.asked = threading.Event()
        self.released = threading.Event()

    def export(self, _):
        self.asked.set()
        self.released.wait(30)
        return SpanExportResult.FAILURE


async def test_a_collector_that_does_not_answer_holds_up_nothing():
    exporter, tracers = Hangs(), TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1))
    telemetry = OpenTelemetry(tracer_provider=tracers, meter_provider=MeterProvider(shutdown_on_exit=False))
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url("v1"), codec=Plain, chunk_rows=1, telemetry=telemetry) as client:
            await client.map(X)
            assert exporter.asked.wait(10)
            # The exporter hangs from here on.
            for _ in range(5):
                assert (await client.map(X) == X).all()
    assert not exporter.released.is_set()
    exporter.released.set()
    tracers.shutdown()


def test_a_client_without_telemetry_loads_none_of_it_and_one_without_an_sdk_records_nothing():
    program = """
import asyncio, sys
import numpy as np
import fanout
from fanout.testing import MockEndpoint

async def run(telemetry):
    with MockEndpoint(lambda x: x * 2) as mock:
        async with fanout.Client(mock.url("v1"), codec="v1", chunk_rows=2, telemetry=telemetry) as client:
            mapped, predicted = await client.map(np.arange(6.0).reshape(3, 2)), await client.predict(np.ones(2))
            print(mapped.tolist(), predicted.tolist())
        return "traceparent" in mock.requests[0].headers

asyncio.run(run(None))
print([name for name in sys.modules if "telemetry" in name or "prometheus" in name])
print(asyncio.run(run(fanout.OpenTelemetry())), "opentelemetry.sdk" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    answers = "[[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]] [2.0, 2.0]"
    assert ran.stdout.splitlines() == [answers, "[]", answers, "False False"]
    assert not ran.stderr


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [(OpenTelemetry, "opentelemetry", "otel"), (lambda: Prometheus(None), "prometheus_client", "prometheus")],
)
def test_a_missing_package_is_named_with_its_extra(make, module, extra):
    with patches.patch.dict(sys.modules, {module: None}), pytest.raises(ConfigError, match=rf"fanout-ml\[{extra}\]"):
        make()


def test_telemetry_of_the_process_travels_to_another():
    copy = pickle.loads(pickle.dumps(OpenTelemetry(chunk_traces=True, gen_ai="openai")))
    assert copy.tracing.chunk_traces
    assert copy.tracing.gen_ai is not None


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_the_collector_of_a_process_becomes_that_of_another(is_elsewhere, monkeypatch):
    monkeypatch.setattr("prometheus_client.REGISTRY", CollectorRegistry())
    monkeypatch.setattr(Prometheus, "_of_process", None)
    collector = Prometheus()
    pickled = pickle.dumps([collector, collector])
    if is_elsewhere:
        monkeypatch.setattr("prometheus_client.REGISTRY", CollectorRegistry())
        monkeypatch.setattr(Prometheus, "_of_process", None)
    one, other = pickle.loads(pickled)
    assert one is other
    assert (one is collector) != is_elsewhere
    assert pickle.loads(pickled)[0] is one


@pytest.mark.parametrize("make", [lambda: Sdk().telemetry(), lambda: Prometheus(CollectorRegistry())])
def test_telemetry_of_ones_own_providers_does_not(make):
    with pytest.raises(ConfigError, match="belong"):
        pickle.dumps(make())

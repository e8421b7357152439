#!/usr/bin/env python3
"""Measure what telemetry adds to an attempt: fanout's own part, and the whole with a real SDK of OpenTelemetry.

For fanout's own part, the objects around an attempt are called with and without telemetry, while each function of
OpenTelemetry does nothing: the least of many rounds, so that other programs do not count. For the whole, chunks of one
row go to a server in another thread, with each telemetry in turns; time is the CPU time of the client's thread.

usage: scripts/measure_telemetry.py [CHUNKS] [ROUNDS]
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack, contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from multidict import CIMultiDict
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from prometheus_client import CollectorRegistry

import fanout
from fanout._redact import Redactor
from fanout.results import ChunkResult
from fanout.telemetry import requests, spans
from fanout.transport.base import Request, unredacted
from fanout.types import Chunk, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

URL = "http://127.0.0.1/v1/models/m:predict"
chunk_path = SourceFileLoader("chunk_path", str(Path(__file__).with_name("chunk_path"))).load_module()


class Nothing:
    """A tracer, a span, a meter and a histogram that do nothing."""

    def __init__(self, *, recording: bool) -> None:
        self._recording = recording

    def is_recording(self) -> bool:
        return self._recording

    def _nothing(self, *_: Any, **__: Any) -> Any:
        return self

    get_tracer = get_meter = create_histogram = start_span = get_span_context = _nothing
    create_observable_counter = create_observable_up_down_counter = create_observable_gauge = _nothing
    set_attribute = set_attributes = set_status = add_event = end = record = _nothing


def none(*_: Any, **__: Any) -> None:
    """Do nothing."""


def fields_only(fields: dict[str, str], _: object) -> None:
    """Write a context, without the time to make its text."""
    fields["traceparent"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@contextmanager
def without_api() -> Iterator[None]:
    """Replace the functions of OpenTelemetry that fanout calls."""
    context = SimpleNamespace(attach=none, detach=none, get_current=none, Context=dict)
    with (
        mock.patch.object(spans, "context", context),
        mock.patch.object(spans, "set_span_in_context", none),
        mock.patch.object(requests, "set_span_in_context", none),
        mock.patch.object(spans, "inject", fields_only),
    ):
        yield


def providers(*, recording: bool) -> dict[str, Any]:
    """Return providers of an SDK that does nothing."""
    nothing = Nothing(recording=recording)
    return {"tracer_provider": nothing, "meter_provider": nothing}


def sdk(*, sampled: bool) -> dict[str, Any]:
    """Return providers of the real SDK, whose spans go nowhere."""
    tracers = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF, shutdown_on_exit=False)
    tracers.add_span_processor(SpanProcessor())
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    return {"tracer_provider": tracers, "meter_provider": meters}


class Direct:
    """A transport, an attempter and a run that do nothing, around the real objects of telemetry."""

    ticket = misfit = stopped = None
    response = Response(status=200, headers={}, body=b"")
    done = ChunkResult(start=0, stop=1, outputs=None)
    chunker = SimpleNamespace(total=1)

    def __init__(self) -> None:
        self.headers = CIMultiDict({"User-Agent": "x", "Accept-Encoding": "identity", "Content-Type": "x"})
        self.task: Any = SimpleNamespace(is_control=False, chunk=Chunk(0, 1), sent=0, place=None, usage={})
        self.sender: Any = self

    async def send(self, _: object) -> Response:
        return self.response

    async def run(self, _: object, __: object) -> Response:
        request = Request("POST", URL, self.headers, (b"",), False, None, unredacted)
        response: Response = await self.sender.send(request)
        return response

    def deliver(self, _: object) -> None:
        return


async def own_part(*, recording: bool | None, attempts: int = 5000) -> float:
    """Return the time of an attempt whose parts do nothing, in microseconds; ``recording`` None is no telemetry."""
    direct = Direct()
    attempter: Any = direct
    deliver: Callable[[ChunkResult], None] = direct.deliver
    with without_api():
        if recording is not None:
            tracing = fanout.OpenTelemetry(**providers(recording=recording)).tracing
            assert isinstance(tracing, spans.SpanTracing)
            run = tracing.run(fanout.codec("v1"), str, None)
            direct.sender = tracing.transport(direct, URL, Redactor())
            deliver = run.delivering(deliver)
            # The end of the run would ask for counters that nothing has counted.
            run._begin(direct)  # type: ignore[arg-type] # noqa: SLF001
            attempter = run.attempter(direct)
        began = time.thread_time()
        for _ in range(attempts):
            await attempter.run(direct.task, None)
            deliver(direct.done)
        return (time.thread_time() - began) / attempts * 1e6


def null_calls(*, recording: bool, attempts: int = 5000) -> float:
    """Return the time of the calls of OpenTelemetry in an attempt, which do nothing, in microseconds."""
    nothing, attributes, fields = Nothing(recording=recording), {"http.request.method": "POST"}, dict[str, str]()
    began = time.thread_time()
    for _ in range(attempts):
        nothing.start_span("POST", None, 1, attributes, None)
        none(nothing, None)
        fields_only(fields, None)
        nothing.is_recording()
        nothing.end()
        none(nothing, None)
        nothing.record(0.1, attributes, None)
        if recording:
            nothing.start_span("fanout.chunk", None, 1, attributes, None)
            none(nothing, None)
            none(nothing)
            nothing.get_span_context()
            nothing.set_attribute("http.response.status_code", 200)
            nothing.end()
    return (time.thread_time() - began) / attempts * 1e6


def variants() -> dict[str, Callable[[], Any]]:
    """Return the telemetries to compare, by name; the first is without any."""
    return {
        "off": lambda: None,
        "Prometheus": lambda: fanout.Prometheus(CollectorRegistry()),
        "OpenTelemetry": lambda: fanout.OpenTelemetry(**sdk(sampled=True)),
        "OpenTelemetry, unsampled": lambda: fanout.OpenTelemetry(**sdk(sampled=False)),
        "OpenTelemetry without an SDK": fanout.OpenTelemetry,
    }


async def measure(chunks: int, rounds: int) -> dict[str, list[float]]:
    """Return the CPU times of an attempt with each telemetry in microseconds, one of each round."""
    url = f"http://127.0.0.1:{chunk_path._serve()}/v1/models/m:predict"  # noqa: SLF001 - of the script beside this one
    rows = np.zeros((chunks, 8), "f4")
    codec, limits = fanout.codec("v1", dtype="float32"), fanout.Limits(concurrency=8)
    taken: dict[str, list[float]] = {name: [] for name in variants()}
    async with AsyncExitStack() as stack:
        clients = {}
        for name, telemetry in variants().items():
            client: fanout.Client[Any] = fanout.Client(
                url, codec=codec, chunk_rows=1, limits=limits, telemetry=telemetry()
            )
            clients[name] = await stack.enter_async_context(client)
        for _ in range(rounds):
            for name, client in clients.items():
                began = time.thread_time()
                await client.map(rows)
                taken[name].append((time.thread_time() - began) / chunks * 1e6)
    return taken


def main(chunks: int, rounds: int) -> None:
    """Print both measurements."""
    without = min(asyncio.run(own_part(recording=None)) for _ in range(rounds))
    for name, recording in (("sampled", True), ("unsampled", False)):
        added = min(asyncio.run(own_part(recording=recording)) for _ in range(rounds)) - without
        calls = min(null_calls(recording=recording) for _ in range(rounds))
        print(f"fanout's own part, {name}: {added - calls:.1f} us an attempt, and {calls:.1f} us for calls of the SDK")
    for name, taken in asyncio.run(measure(chunks, rounds)).items():
        print(f"{name:30} {min(taken):6.1f} us an attempt in all")


if __name__ == "__main__":
    main(*(int(given) for given in (*sys.argv[1:], *("500", "40")[len(sys.argv) - 1 :])))

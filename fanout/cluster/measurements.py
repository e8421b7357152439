"""Measurements of a worker's client as JSON, and their sum over all workers."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.results import EndpointStatistics, Statistics
from fanout.statistics import Latencies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fanout.client import Client

# Times differ between processes, and percentiles come from the histogram.
_NOT_SUMMED = frozenset({"seconds", "writing_seconds", "cost_per_row", "cost_per_row_error"})
_SUMMED = tuple(one.name for one in fields(Statistics) if one.default in (0, 0.0) and one.name not in _NOT_SUMMED)
_MONEY = ("cost", "cost_estimated")


def measurements(client: Client) -> dict[str, Any]:
    """Return the measurements of an open client."""
    stats, counts = client.statistics(), client.latencies().counts
    summed = {name: getattr(stats, name) for name in (*_SUMMED, *_MONEY, "concurrency", "currency")}
    return {
        **summed,
        "usage": dict(stats.usage),
        "endpoints": [asdict(one) for one in stats.endpoints],
        "latencies": [[int(i), int(counts[i])] for i in counts.nonzero()[0]],
    }


def finished(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measurements of an attempt that has come to its end: nothing is in flight."""
    idle = [{**one, "in_flight": 0} for one in measured.get("endpoints", ())]
    return {**measured, "in_flight": 0, "backing_off": 0, "concurrency": None, "endpoints": idle}


def combined(workers: Iterable[Mapping[str, Any]], seconds: float) -> Statistics:
    """Return the statistics of all workers together."""
    workers = list(workers)
    counts: dict[str, Any] = {name: sum(one.get(name) or 0 for one in workers) for name in _SUMMED}
    currency = next((one["currency"] for one in workers if one.get("currency")), None)
    if currency is not None:
        # One unknown cost makes the sum unknown.
        sums: dict[str, list[Any]] = {
            name: [one.get(name) for one in workers if one.get("currency")] for name in _MONEY
        }
        counts |= {name: None if None in costs else sum(map(float, costs)) for name, costs in sums.items()}
    usage: dict[str, int] = {}
    for one in workers:
        for name, count in one.get("usage", {}).items():
            usage[name] = usage.get(name, 0) + count
    adaptive = [one["concurrency"] for one in workers if one.get("concurrency")]
    latencies = combined_latencies(workers)
    p50, p95, p99 = latencies.quantiles(0.50, 0.95, 0.99)
    answered = counts["ok"] - counts["cached"]
    return Statistics(
        **counts,
        seconds=seconds,
        usage=usage,
        endpoints=_endpoints(workers),
        concurrency=sum(adaptive) if adaptive else None,
        latency_p50=p50,
        latency_p95=p95,
        latency_p99=p99,
        currency=currency,
        cost_per_row=counts["cost"] / answered if counts.get("cost") is not None and answered > 0 else None,
    )


def combined_latencies(workers: Iterable[Mapping[str, Any]]) -> Latencies:
    """Return the histogram of all workers together."""
    total = Latencies()
    counts = np.zeros_like(total.counts)
    for one in workers:
        for place, n in one.get("latencies", ()):
            counts[place] += n
    return Latencies(counts)


def _endpoints(workers: Iterable[Mapping[str, Any]]) -> tuple[EndpointStatistics, ...]:
    """Return an entry for each endpoint, with the state that the last worker reports."""
    by_url: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for one in worker.get("endpoints", ()):
            before = by_url.get(one["url"])
            sums = {key: one[key] + (before[key] if before else 0) for key in ("requests", "in_flight")}
            by_url[one["url"]] = {**one, **sums}
    return tuple(EndpointStatistics(**one) for one in by_url.values())

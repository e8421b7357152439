"""A scrape over the loopback interface gives the counters of any number of clients."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fanout import Client, ConfigError, Limits, Prices, Prometheus, SyncClient
from fanout.cli import main
from fanout.job import load_job, run_job
from fanout.telemetry import serve_metrics
from fanout.testing import FaultServer, MockEndpoint
from tests.support import Plain

X = np.arange(12.0).reshape(4, 3)


def samples(text):
    """Name and values of the labels to the number."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def is_served(url):
    try:
        urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def scraped(registry):
    return samples(generate_latest(registry).decode())


@pytest.fixture
def registry():
    return CollectorRegistry()


async def test_a_scrape_over_the_loopback_has_the_numbers_of_an_open_client():
    with serve_metrics(0) as (collector, url):
        async with FaultServer(lambda x: x) as server:
            server.script(503)
            async with Client(server.url("v1"), codec="v1", chunk_rows=2, telemetry=collector, name="a") as client:
                await client.map(X)
                # From another thread, as a scraper's request comes.
                text = await asyncio.to_thread(lambda: urlopen(url).read().decode())
                endpoint = server.url("v1")
    assert url.startswith("http://127.0.0.1:")
    found = samples(text)
    assert found["fanout_rows_total", "a", "ok"] == 4
    assert found["fanout_rows_total", "a", "failed"] == 0
    assert found["fanout_requests_total", "a", endpoint] == 3
    assert found["fanout_retries_total", "a"] == 1
    assert found["fanout_requests_in_flight", "a", endpoint] == 0
    assert found["fanout_requests_limit", "a"] == 16
    assert found["fanout_endpoint_available", "a", endpoint] == 1
    assert found["fanout_request_duration_seconds_count", "a"] == 3
    assert found["fanout_request_duration_seconds_bucket", "a", "+Inf"] == 3
    assert found["fanout_bodies_bytes_total", "a", "sent"] > 0
    assert not is_served(url)


async def test_clients_are_told_apart_by_their_names_and_added_up_under_one(registry):
    metrics = Prometheus(registry)
    with MockEndpoint(lambda x: x) as mock:
        for name in ("a", "b", "b"):
            async with Client(mock.url("v1"), codec=Plain, telemetry=metrics, name=name) as client:
                await client.map(X)
        async with Client(mock.url("v1"), codec=Plain, telemetry=metrics, name="b") as client:
            await client.map(X[:1])
            found = scraped(registry)
    assert found["fanout_rows_total", "a", "ok"] == 4
    assert found["fanout_rows_total", "b", "ok"] == 9  # those of closed clients stay
    assert ("fanout_requests_limit", "a") not in found
    assert found["fanout_requests_limit", "b"] == 16


async def test_the_name_is_the_host_where_none_is_given(registry):
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url("v1"), codec=Plain, telemetry=Prometheus(registry)) as client:
            await client.map(X)
    assert scraped(registry)["fanout_rows_total", "fanout-mock.test", "ok"] == 4


def test_a_blocking_client_is_scraped_from_the_threads_of_others(registry):
    with (
        MockEndpoint(lambda x: x) as mock,
        SyncClient(mock.url("v1"), codec=Plain, telemetry=Prometheus(registry), name="s") as client,
    ):
        client.map(X)
        assert scraped(registry)["fanout_rows_total", "s", "ok"] == 4


async def test_a_busy_loop_delays_a_scrape_by_a_second_at_most_and_gives_the_last_numbers(registry, monkeypatch):
    monkeypatch.setattr("fanout.telemetry.clients._PATIENCE", 0.05)
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url("v1"), codec=Plain, telemetry=Prometheus(registry), name="a") as client:
            await client.map(X)
            assert scraped(registry)["fanout_rows_total", "a", "ok"] == 4
            done, found = threading.Event(), {}

            def scrape():
                found.update(scraped(registry))
                done.set()

            thread = threading.Thread(target=scrape)
            thread.start()
            assert done.wait(10)  # the loop is busy with this
            thread.join()
    assert found["fanout_rows_total", "a", "ok"] == 4


async def test_durations_are_counted_in_buckets(registry):
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url("v1"), codec=Plain, telemetry=Prometheus(registry), name="a") as client:
            await client.map(X)
            latencies = client.latencies()
            found = scraped(registry)
    buckets = [value for (name, *_), value in found.items() if name == "fanout_request_duration_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == latencies.counts.sum() == 1
    seconds = found["fanout_request_duration_seconds_sum", "a"]
    assert seconds == pytest.approx(latencies.quantiles(0.5)[0], rel=0.05)


async def test_cost_and_endpoints_are_bounded_series(registry):
    urls = [f"http://h{n}/v1" for n in range(30)]
    options = {"codec": Plain, "cost": Prices(per_request=0.5), "limits": Limits(concurrency=2)}
    async with Client(urls, telemetry=Prometheus(registry), name="a", **options) as client:
        found = scraped(registry)
        assert client.statistics().requests == 0
    endpoints = {labels[1] for name, *labels in found if name == "fanout_requests_total"}
    assert len(endpoints) == 21
    assert "other" in endpoints
    assert found["fanout_cost_total", "a", "USD"] == 0


async def test_many_names_become_one_series(registry, monkeypatch):
    monkeypatch.setattr("fanout.telemetry.clients._MOST_NAMES", 3)
    metrics = Prometheus(registry)
    with MockEndpoint(lambda x: x) as mock:
        for n in range(6):
            async with Client(mock.url("v1"), codec=Plain, telemetry=metrics, name=f"n{n}") as client:
                await client.map(X[:1])
    found = scraped(registry)
    rows = {labels[0]: n for (name, *labels), n in found.items() if name == "fanout_rows_total" and labels[1] == "ok"}
    assert rows == {"n0": 1, "n1": 1, "n2": 1, "other": 3}


def test_a_second_collector_in_one_registry_is_refused(registry):
    Prometheus(registry)
    with pytest.raises(ConfigError, match="give that one to all clients"):
        Prometheus(registry)


async def test_a_dropped_client_is_forgotten(registry):
    metrics = Prometheus(registry)
    client = Client("http://h/v1", codec=Plain, telemetry=metrics, name="a")
    await client.open()
    assert ("fanout_rows_total", "a", "ok") in scraped(registry)
    await client.close()


async def test_a_forked_process_shows_nothing_of_its_parents_clients(registry, monkeypatch):
    with MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url("v1"), codec=Plain, telemetry=Prometheus(registry), name="a") as client:
            await client.map(X)
            with monkeypatch.context() as forked:
                forked.setattr(os, "getpid", lambda: -1)
                assert not any(name == "fanout_rows_total" for name, *_ in scraped(registry))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


JOB = """
[input]
path = "x.npy"
[endpoint]
url = "{url}"
[codec]
name = "v1"
[output]
path = "y.npy"
[report]
write = false
"""


async def test_a_job_serves_metrics_while_it_runs(tmp_path):
    port, texts = free_port(), list[str]()
    np.save(tmp_path / "x.npy", X)

    def scrape(rows):
        if not texts:  # the first request is being answered, on another thread than the job's
            texts.append(urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode())
        return rows

    with ThreadPoolExecutor(1) as worker:
        async with FaultServer(scrape, worker=worker) as server:
            (tmp_path / "job.toml").write_text(JOB.format(url=server.url("v1")))
            job = load_job(tmp_path / "job.toml", [f"telemetry.metrics_port={port}"])
            summary = await run_job(job)
            endpoint = server.url("v1")
    (text,) = texts
    assert samples(text)["fanout_requests_in_flight", "127.0.0.1", endpoint] == 1
    assert summary.exit_code == 0
    assert not is_served(f"http://127.0.0.1:{port}/metrics")


def test_the_option_of_the_command_is_taken(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "job.toml").write_text(JOB.format(url="http://h/v1"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("sys.argv", ["fanout", "run", str(tmp_path / "job.toml"), "--metrics-port", str(port)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert re.search(rf"telemetry.metrics_port: .*127.0.0.1:{port}", shown)
    assert "Traceback" not in shown

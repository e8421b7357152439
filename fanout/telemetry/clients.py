"""Telemetry follows clients: it reads their numbers from any thread, whenever metrics are collected.

The numbers come from the statistics that every client keeps. Spans need three places in the engine: the transport, the
attempter and the delivery of chunks, which are wrapped only if a client is traced.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

from fanout.statistics import Latencies
from fanout.telemetry.metrics import METRICS, OTHER, Labels, Metric, label

if TYPE_CHECKING:
    from fanout.client.session import Session
    from fanout.telemetry.spans import SpanTracing

Numbers: TypeAlias = dict[tuple[Metric, Labels], float]
"""Metric and values of its labels to the number."""

# A loop that is busy for longer gives no numbers: those of the last time are taken.
_PATIENCE = 1.0

# Names become labels, and a service that names its clients by request would make a series for each.
_MOST_NAMES = 100


class Telemetry:
    """Follows any number of clients, given to each as its option ``telemetry``."""

    # An attribute, so that a client asks once as it is made, and an untraced one pays for no call.
    tracing: SpanTracing | None = None
    """Traces runs and requests; None makes no spans."""

    _clients: FollowedClients

    def follow(self, client: Session) -> None:
        """Follow a client that was opened."""
        self._clients.add(client)

    def unfollow(self, client: Session) -> None:
        """Keep the counters of a client that is about to close. Called on its loop."""
        self._clients.remove(client)


class Reading:
    """The numbers of one client, or of all clients of one name."""

    def __init__(self) -> None:
        self.numbers: Numbers = {}
        self.latencies = Latencies()

    @classmethod
    def of(cls, client: Session) -> Reading:
        """Read a client. To be called where its counters cannot change meanwhile."""
        reading, stats, limit = cls(), client.statistics(), client.concurrency
        for metric in METRICS:
            for labels, number in metric.read(stats, limit):
                reading.put(metric, labels, number)
        reading.latencies.add(client.latencies())
        return reading

    def put(self, metric: Metric, labels: Labels, number: float) -> None:
        """Add a number to those of the same labels."""
        before = self.numbers.get((metric, labels), 0.0)
        # A sum of gauges has no meaning: two clients of one endpoint do not make it twice as available.
        self.numbers[metric, labels] = max(before, number) if metric.kind == "gauge" else before + number

    def add(self, other: Reading, *, counters_only: bool = False) -> None:
        """Take the numbers of another client into these."""
        for (metric, labels), number in other.numbers.items():
            if metric.kind == "counter" or not counters_only:
                self.put(metric, labels, number)
        self.latencies.add(other.latencies)


class FollowedClients:
    """Clients, and the counters of those that have closed: no sum ever falls."""

    def __init__(self) -> None:
        self._reset()

    def add(self, client: Session) -> None:
        """Follow an open client."""
        with self._lock_of_process():
            self._open[client] = Reading()

    def remove(self, client: Session) -> None:
        """Keep the counters of a client that is about to close. Call it on the client's loop."""
        # Read before the client is removed: a scrape in between would find it in neither place, and the sum would fall.
        last = Reading.of(client)
        with self._lock_of_process():
            if self._open.pop(client, None) is not None:
                name = self._bounded(client.name, self._closed)
                self._closed.setdefault(name, Reading()).add(last, counters_only=True)

    def read(self) -> dict[str, Reading]:
        """Return the numbers of all clients by their names. May be called from any thread."""
        with self._lock_of_process():
            clients = list(self._open)
        # Without the lock, because a loop may be waiting for it: a client that is opened or closed on it.
        last = _read_all(clients)
        with self._lock_of_process():
            readings = {name: Reading() for name in self._closed}
            for name, closed in self._closed.items():
                readings[name].add(closed)
            for client, known in list(self._open.items()):
                # The loop of a client may be busy: its numbers are those of the scrape before, so that no counter
                # falls.
                reading = last.get(client, known)
                self._open[client] = reading
                name = self._bounded(client.name, readings)
                readings.setdefault(name, Reading()).add(reading)
        return readings

    @staticmethod
    def _bounded(name: str, names: dict[str, Reading]) -> str:
        name = label(name)
        return name if name in names or len(names) < _MOST_NAMES else OTHER

    def _lock_of_process(self) -> threading.Lock:
        # A forked process has the objects of its parent's clients, but none of their loops.
        if os.getpid() != self._pid:
            self._reset()
        return self._lock

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        # A client that is dropped without being closed is no longer followed.
        self._open: WeakKeyDictionary[Session, Reading] = WeakKeyDictionary()
        self._closed: dict[str, Reading] = {}


def _read_all(clients: list[Session]) -> dict[Session, Reading]:
    """Read each client on its own loop, within a second; those whose loops are busy for longer are left out."""
    readings: dict[Session, Reading] = {}
    waiting: dict[Session, Future[Reading]] = {}
    for client in clients:
        # Its client was dropped without being closed, and nothing can be read on its loop any more.
        if client.loop.is_closed():
            continue
        if _may_read_here(client.loop):
            readings[client] = Reading.of(client)
        else:
            waiting[client] = _ask(client)
    # One bound for all clients: a scraper gives up after some seconds, however many loops are busy.
    until = monotonic() + _PATIENCE
    for client, future in waiting.items():
        try:
            readings[client] = future.result(max(0.0, until - monotonic()))
        except (FutureTimeout, CancelledError, RuntimeError):
            future.cancel()
    return readings


def _may_read_here(loop: asyncio.AbstractEventLoop) -> bool:
    """True on the thread of ``loop``, and while it does not run."""
    try:
        if asyncio.get_running_loop() is loop:
            return True
    except RuntimeError:
        pass
    # Nothing changes the counters while their loop stands still, between two calls that run it.
    return not loop.is_running()


def _ask(client: Session) -> Future[Reading]:
    future: Future[Reading] = Future()

    def read() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(Reading.of(client))
            except Exception as error:  # noqa: BLE001 - passed on to the thread that waits
                future.set_exception(error)

    try:
        client.loop.call_soon_threadsafe(read)
    except RuntimeError:  # the loop has just been closed
        future.cancel()
    return future

"""Requests of the standard library's HTTP client that are broken off at their deadline."""

from __future__ import annotations

import socket
from threading import Event
from urllib.error import URLError
from urllib.request import ProxyHandler

import pytest

from fanout import deadline as module
from fanout.deadline import Deadline, WatchedRequest, watched_opener
from tests.io.readers.test_fetching import answering


def test_a_proxy_that_sends_a_little_now_and_then_is_broken_off():
    """The response to CONNECT comes before the connection is the caller's."""
    over = Event()

    def answer(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not over.wait(0.02):
            connection.sendall(b"x")

    with answering(answer) as port, Deadline(0.1) as deadline:
        request = WatchedRequest("https://files.example.com/x", deadline, {})
        opener = watched_opener(ProxyHandler({"https": f"http://127.0.0.1:{port}"}))
        with pytest.raises((URLError, OSError)):
            opener.open(request, timeout=30.0)
        assert deadline.passed
    over.set()


def test_a_connection_is_not_broken_before_the_time_is_over(monkeypatch):
    """The timer of a deadline that was renewed comes too early."""
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    left, right = socket.socketpair()
    with left, right, Deadline(0.02) as deadline:
        left.settimeout(30.0)
        deadline.watch(left)
        Event().wait(0.1)
        right.sendall(b"x")
        assert left.recv(1) == b"x"
        now[0] = 0.01
        deadline.renew()
        now[0] = 0.025
        assert not deadline.passed
        now[0] = 1.0
        assert left.recv(1) == b""
        assert deadline.passed

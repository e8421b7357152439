"""Tests of the servers of static responses."""

from __future__ import annotations

import asyncio
import http.client
import socket
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.servers import Served, has_nginx, server
from benchmarks.servers.static import Connection, Failing, Pages
from benchmarks.workloads import site, workload_named

NGINX = [False, pytest.param(True, marks=pytest.mark.skipif(not has_nginx(), reason="nginx is not installed"))]


class Written(asyncio.Transport):
    """Collects the bytes that a server sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.sent += data


def line(**served: object) -> tuple[Connection, Written]:
    served_connection, written = Connection(Pages(Served(**served))), Written()
    served_connection.connection_made(written)
    return served_connection, written


def post(path: str, body: bytes = b"") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("nginx", NGINX, ids=["own", "nginx"])
def test_a_post_returns_every_page_on_one_connection(nginx):
    with server(Served(), nginx=nginx) as origin:
        connection = http.client.HTTPConnection(urlsplit(origin).netloc)
        for path, page in site().items():
            connection.request("POST", path, body=b"x" * 300_000)
            answer = connection.getresponse()
            assert (answer.status, answer.read() == page.body) == (200, True)
            assert answer.getheader("Content-Type") == page.content_type
            assert page.headers.items() <= dict(answer.getheaders()).items()
        connection.close()


@pytest.mark.parametrize("nginx", NGINX, ids=["own", "nginx"])
def test_no_response_precedes_the_end_of_the_request(nginx):
    with server(Served(), nginx=nginx) as origin, socket.create_connection(urlsplit(origin).netloc.split(":")) as peer:
        whole = post(workload_named("W1").url_path, b"x" * 1000)
        peer.sendall(whole[:-1])
        peer.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.recv(1)
        peer.settimeout(10)
        peer.sendall(whole[-1:])
        assert peer.recv(15).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("nginx", NGINX, ids=["own", "nginx"])
def test_a_server_ends_with_its_context(nginx):
    with server(Served(), nginx=nginx) as origin:
        host, port = urlsplit(origin).netloc.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


@given(cuts=st.lists(st.integers(0, 400)))
def test_requests_are_answered_for_every_split_of_their_bytes(cuts):
    path = workload_named("W1").url_path
    both = post(path, b"a" * 90) + post(path, b"b" * 50)
    at = sorted({0, len(both), *(cut for cut in cuts if cut < len(both))})
    served_connection, written = line()
    for start, stop in pairwise(at):
        served_connection.data_received(both[start:stop])
    assert written.sent.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("n", [1, 3, 64])
def test_a_response_has_as_many_rows_as_the_request(n):
    served_connection, written = line(by_rows=True)
    rows = orjson.dumps({"instances": workload_named("W1").rows(n)}, option=orjson.OPT_SERIALIZE_NUMPY)
    served_connection.data_received(post(workload_named("W1").url_path, rows))
    predictions = orjson.loads(written.sent.partition(b"\r\n\r\n")[2])["predictions"]
    workload_named("W1").check(np.array(predictions, np.float32), n)


def test_an_unknown_path_is_a_404():
    served_connection, written = line()
    served_connection.data_received(post("/nowhere"))
    assert written.sent.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(("share", "failed"), [(0.0, 0), (0.01, 10), (0.1, 100), (1.0, 1000)])
def test_the_configured_share_of_requests_fails(share, failed):
    failing = Failing(share)
    assert abs(sum(failing.next() for _ in range(1000)) - failed) <= 1

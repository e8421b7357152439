"""Which URLs in rows are fetched, passed on or refused; and servers that would hold up a fetch."""

from __future__ import annotations

import socket
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest

from fanout.errors import InputError
from fanout.io.readers.fetching import Unfetched, UrlFetcher

HOSTS = ["cdn.example.com", "*.images.example.org", "10.0.0.7:8080", "[::1]:9000", "intranet"]


def allows(url: str, hosts: list[str] = HOSTS) -> bool:
    return UrlFetcher(hosts, 1.0, 1000).allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.com/1.png",
        "HTTPS://CDN.Example.com:443/1.png?a=b",
        "http://cdn.example.com./1.png",
        "https://a.images.example.org/1.png",
        "https://a.b.images.example.org/1.png",
        "http://10.0.0.7:8080/1.png",
        "http://[::1]:9000/1.png",
        "http://intranet/1.png",
    ],
)
def test_a_named_host_is_fetched_from(url):
    assert allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example.com/1.png",
        "https://cdn.example.com:8443/1.png",
        "https://cdn.example.com.evil.org/1.png",
        "https://images.example.org/1.png",
        "https://notimages.example.org/1.png",
        "https://8.8.8.8/1.png",
        "gs://bucket/1.png",
        "s3://bucket/1.png",
        "data:image/png;base64,AAAA",
        "https://münchen.example.com/1.png",
        "https://a_bucket.example.com/1.png",
        "https://[2606:4700::1111]/1.png",
    ],
)
def test_another_public_host_is_passed_on(url):
    assert not allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.7/1.png",
        "http://10.0.0.8:8080/1.png",
        "http://intranet:81/1.png",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://[fe80::1%25eth0]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://box.local/",
        "http://localhost.localdomain/",
        "http://wiki.corp/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://169\u3002254.169\u3002254/",
        "http://127.0.0.1\u200b/",
        "http://127.0.0.1\u3002/",
        "http://metadata.google.\u24d8nternal/",
        "http://\u00a0127.0.0.1/",
        "http://127%2e0.0.1/",
        "http://%31%32%37.0.0.1/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[::ffff:0:127.0.0.1]/",
        "http://[fec0::1]/",
        "http://[ff02::1]/",
        "http://[::zz]/",
        "http:///1.png",
        "http://h:99999/",
        "gopher://example.com/",
    ],
)
def test_an_internal_host_and_what_is_no_web_url_are_refused(url):
    with pytest.raises(Unfetched):
        allows(url)


def test_a_pattern_names_no_internal_host():
    with pytest.raises(Unfetched):
        allows("http://metadata.google.internal/", ["*.google.internal"])


@pytest.mark.parametrize("host", ["*", "https://h", "h/path", "", "*.*", "h:port"])
def test_what_is_no_host_is_an_error_with_its_key(host):
    with pytest.raises(InputError, match="is not a host") as error:
        UrlFetcher([host], 1.0, 1000)
    assert error.value.key == "input.fetch_hosts"


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("scheme", "first", "drip"),
    [
        ("http", b"", HEAD),
        ("http", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("http", HEAD + b"X: ", b"x"),
        ("http", HEAD + b"Content-Length: 1000\r\n\r\n", b"x"),
        ("http", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        ("http", HEAD + b"\r\n", b"x"),
        ("https", b"\x16\x03\x03\x40\x00", b"\x00"),
    ],
)
def test_a_server_that_sends_a_little_now_and_then_is_late(scheme, first, drip):
    """Each piece comes within the time limit of the socket, and the last one never."""
    over = Event()

    def answer(connection):
        connection.recv(4096)
        connection.sendall(first)
        while not over.wait(0.02):
            connection.sendall(drip)

    with (
        answering(answer) as port,
        pytest.raises(Unfetched, match=r"did not arrive within input.fetch_timeout = 0.1 s"),
    ):
        UrlFetcher([f"127.0.0.1:{port}"], 0.1, 10**9).fetch(f"{scheme}://127.0.0.1:{port}/x")
    over.set()


@pytest.mark.parametrize(
    "answer",
    [HEAD + b"Content-Length: 3\r\n\r\nok", HEAD + b"\r\nok", HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"],
    ids=["length", "none", "chunks"],
)
def test_a_file_that_may_lack_its_end_is_refused(answer):
    def send(connection):
        connection.recv(4096)
        connection.sendall(answer)

    with answering(send) as port, pytest.raises(Unfetched, match=r"may be missing|IncompleteRead"):
        UrlFetcher([f"127.0.0.1:{port}"], 30.0, 1000).fetch(f"http://127.0.0.1:{port}/x")


def test_the_body_of_a_redirect_is_not_read():
    def answer(connection):
        if connection.recv(4096).startswith(b"GET /y "):
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\nok")
            return
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /y\r\n\r\n")
        while True:
            connection.sendall(b"x" * 2**16)

    with answering(answer) as port:
        assert UrlFetcher([f"127.0.0.1:{port}"], 30.0, 1000).fetch(f"http://127.0.0.1:{port}/x") == b"ok"


@contextmanager
def answering(answer):
    """Call ``answer`` with each connection to a port, which this gives."""

    def run(connection):
        with connection, suppress(OSError):
            answer(connection)

    def accept():
        with suppress(OSError):
            while True:
                Thread(target=run, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = Thread(target=accept, daemon=True)
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()

"""An S3 server on the loopback interface (moto's), with faults and kills at requests that a test names."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest

from fanout import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

KEYS = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "a-secret-of-the-store", "region": "us-east-1"}


@dataclass
class S3Server:
    """A running server with the bucket ``data``."""

    url: str
    before: Callable[[str, str], Any] = lambda method, path: None
    """Called with method and path of each request before it is answered; returns None, or a status to answer with, or a
    status and a body."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)

    @property
    def options(self) -> dict[str, str]:
        return {**KEYS, "endpoint": self.url}

    @property
    def storage(self) -> Storage:
        return Storage(s3=self.options)

    @property
    def table(self) -> str:
        """The table of a job file."""
        return "\n[storage.s3]\n" + "".join(f'{name} = "{value}"\n' for name, value in self.options.items())

    def make_bucket(self, name: str = "data") -> None:
        urlopen(Request(f"{self.url}/{name}", method="PUT")).close()

    def remove_bucket(self, name: str = "data") -> None:
        urlopen(Request(f"{self.url}/{name}", method="DELETE")).close()

    def put(self, key: str, data: bytes, *, public: bool = False) -> None:
        if public:
            headers = {"x-amz-acl": "public-read", "Content-Type": "application/octet-stream"}
            urlopen(Request(f"{self.url}/data/{key}", data, headers, method="PUT")).close()
        else:
            self._store.put(key, data)

    def get(self, key: str) -> bytes:
        return bytes(self._store.get(key).bytes())

    def remove(self, key: str) -> None:
        self._store.delete(key)

    def listed(self) -> list[str]:
        return sorted(one["path"] for objects in self._store.list() for one in objects)

    @property
    def _store(self) -> Any:
        from obstore.store import S3Store

        return S3Store("data", config={**self.options, "allow_http": True})


@contextmanager
def serving_s3() -> Iterator[S3Server]:
    """Serve S3 in this process on a free port."""
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    application = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}".rstrip("?")
        server.requests.append((method, path))
        server.authorizations.add(environ.get("HTTP_AUTHORIZATION", ""))
        status = server.before(method, path)
        if status is None:
            return application(environ, start_response)
        status, body = status if isinstance(status, tuple) else (status, b"")
        start_response(f"{status} Fault", [("Content-Length", str(len(body)))])
        return [body]

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *args: Any) -> None:
            return

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    http = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    server = S3Server(f"http://127.0.0.1:{http.port}")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        server.make_bucket()
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture(scope="module")
def s3_server():
    """One server for the tests of a module: its start takes longer than most of them."""
    with serving_s3() as server:
        yield server


@pytest.fixture
def s3(s3_server):
    """The server, with an empty bucket and without faults."""
    s3_server.before = lambda method, path: None
    for key in s3_server.listed():
        s3_server.remove(key)
    s3_server.requests.clear()
    s3_server.authorizations.clear()
    return s3_server

"""Inputs of web servers: ranges of one version, over connections that break."""

import asyncio
import pickle
import re
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from urllib.error import URLError
from urllib.parse import quote, unquote

import numpy as np
import pytest
from aiohttp import web

import fanout
from fanout.errors import InputError
from fanout.io.remote import web as module
from fanout.rows import single_rows
from tests.io.readers.test_fetching import answering
from tests.jobs import served

CSV = b"a\n" + b"".join(b"%d\n" % i for i in range(20_000))
ROWS = list(range(20_000))


@dataclass
class FileServer:
    """Serves one file, as well or as badly as a test wants."""

    data: bytes = CSV
    etag: str | None = '"1"'
    last_modified: str | None = None
    ranges: bool = True
    conditions: bool = True
    cut: int | None = None
    """Bytes after which each connection breaks."""
    chunked: bool = False
    """Send the file without its length."""
    breaks: int = 1_000_000
    """Connections that break."""
    drips: int = 0
    """Responses that send a byte now and then."""
    statuses: list[int] = field(default_factory=list)
    """Statuses of the next responses, in place of the file."""
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append({**request.headers, "path": request.path_qs})
        if request.path == "/moved.csv":
            return web.Response(status=302, headers={"Location": request.query["to"]})
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"Retry-After": "0"})
        if self.conditions and request.headers.get("If-Match", self.etag) != self.etag:
            return web.Response(status=412)
        headers = {"ETag": self.etag, "Last-Modified": self.last_modified}
        response = web.StreamResponse(headers={name: value for name, value in headers.items() if value is not None})
        start, stop = 0, len(self.data)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if wanted and self.ranges:
            start, stop = int(wanted[1]), min(stop, int(wanted[2]) + 1)
            if start >= len(self.data):
                return web.Response(status=416)
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(self.data)}"
        if not self.chunked:
            response.content_length = stop - start
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        await self._send(self.data[start:stop], request, response)
        return response

    async def _send(self, body: bytes, request: web.Request, response: web.StreamResponse) -> None:
        if self.drips and len(body) > 1:
            self.drips -= 1
            with suppress(ConnectionError):
                for i in range(len(body)):
                    await response.write(body[i : i + 1])
                    await asyncio.sleep(0.02)
            return
        if self.cut is not None and len(body) > self.cut and self.breaks:
            self.breaks -= 1
            await response.write(body[: self.cut])
            request.transport.abort()
            return
        await response.write(body)


@pytest.fixture
async def server(monkeypatch):
    monkeypatch.setattr(module, "_WAITS", (0.0,) * 4)
    one = FileServer()
    async with served(one.handle) as url:
        one.url = f"{url}/x.csv"
        yield one


async def rows_of(source):
    def read():
        return [row for block in source.blocks() for row in single_rows(block.rows)]

    return await asyncio.to_thread(read)


async def opened(url, **options):
    return await asyncio.to_thread(lambda: fanout.open_source(url, "a", **options))


@pytest.mark.parametrize(
    "validator",
    [{}, {"etag": 'W/"1"'}, {"etag": None, "last_modified": "Mon, 30 Nov 2026 12:00:00 GMT"}, {"etag": None}],
    ids=["etag", "weak etag", "time of change", "neither"],
)
@pytest.mark.parametrize("ranges", [True, False])
async def test_any_server_gives_the_rows(server, validator, ranges):
    vars(server).update(validator, ranges=ranges)
    source = await opened(server.url)
    assert await rows_of(source) == ROWS
    # A second pass, as one for kept columns, reads the same version.
    assert await rows_of(source) == ROWS
    copied = not ranges or validator == {"etag": None}
    assert sum("Range" not in request for request in server.requests) == copied


async def test_large_files_are_read_by_ranges_of_one_version(server):
    server.data = CSV * 10
    file = module.WebFile(server.url, {})
    assert await asyncio.to_thread(lambda: file.open().read()) == CSV * 10
    conditions = [request.get("If-Match") for request in server.requests]
    assert conditions == [None, '"1"', '"1"', '"1"', '"1"']


async def test_a_connection_that_breaks_costs_no_byte_that_has_come(server):
    server.cut = 10_000
    file = module.WebFile(server.url, {})
    assert await asyncio.to_thread(lambda: file.open().read()) == CSV
    starts = [int(request["Range"][6:].partition("-")[0]) for request in server.requests[1:]]
    assert len(starts) == 11
    assert starts == sorted(set(starts))


@pytest.mark.parametrize("chunked", [False, True])
async def test_without_ranges_a_broken_connection_means_to_begin_again(server, chunked):
    server.ranges, server.cut, server.breaks, server.chunked = False, 10_000, 3, chunked
    assert await rows_of(await opened(server.url)) == ROWS
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_failure_that_may_pass_is_tried_again(server, status):
    server.statuses = [status, status]
    source = await opened(server.url)
    server.statuses = [status]
    assert await rows_of(source) == ROWS


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_refusal_is_an_error_at_once(server, status):
    server.statuses = [status, 200]
    with pytest.raises(InputError, match=rf"/x\.csv\?sig=\*\*\* cannot be read: HTTP {status}") as caught:
        await opened(f"{server.url}?sig=secret-signature")
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


async def test_a_server_that_stays_broken_ends_the_run_with_its_last_word(server):
    server.statuses = [503] * 9
    with pytest.raises(InputError, match="cannot be read: HTTP 503"):
        await opened(server.url)
    assert len(server.requests) == 5


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_server_that_sends_a_byte_now_and_then_is_given_up(server, monkeypatch, ranges):
    """Each byte comes within the limit for one wait."""
    monkeypatch.setattr(module, "_SECONDS", 0.3)
    server.ranges, server.drips = ranges, 10**6
    with pytest.raises(InputError, match="cannot be read: the server sends fewer than 1,024 bytes per second"):
        await rows_of(await opened(server.url))


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_server_that_is_slow_for_a_while_costs_no_row(server, monkeypatch, ranges):
    monkeypatch.setattr(module, "_SECONDS", 1.0)
    server.ranges, server.drips = ranges, 1
    assert await rows_of(await opened(server.url)) == ROWS


async def test_a_file_without_a_length_is_an_error_at_once():
    """A lost connection would look like the end of the file."""
    requests = []

    def answer(connection):
        requests.append(connection.recv(4096))
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + CSV)

    with (
        answering(answer) as port,
        pytest.raises(InputError, match="cannot be read: the server sends no length"),
    ):
        await opened(f"http://127.0.0.1:{port}/x.csv")
    assert len(requests) == 2


@pytest.mark.parametrize("tells", ["etag", "last_modified"])
@pytest.mark.parametrize("cut", [None, 5000])
async def test_a_change_while_reading_is_an_error(server, tells, cut):
    server.etag, server.last_modified = ('"1"', None) if tells == "etag" else (None, "Mon, 30 Nov 2026 12:00:00 GMT")
    server.cut = cut
    source = await opened(server.url)
    server.data = CSV.replace(b"19999", b"19990")
    setattr(server, tells, '"2"' if tells == "etag" else "Mon, 30 Nov 2026 12:00:01 GMT")
    with pytest.raises(InputError, match=r"/x\.csv was changed while it was read: run again"):
        await rows_of(source)


async def test_another_process_reads_the_same_version(server):
    file = module.WebFile(server.url, {"Authorization": "Bearer secret-token"})
    assert (await asyncio.to_thread(file.stat)).st_size == len(CSV)
    pickled = pickle.dumps(file)
    assert b"secret" not in pickled
    server.etag = '"2"'
    with pytest.raises(InputError, match="was changed"):
        await asyncio.to_thread(lambda: pickle.loads(pickled).open().read())


async def test_a_weak_etag_shows_a_change_too(server):
    server.etag = 'W/"1"'
    source = await opened(server.url)
    server.etag = 'W/"2"'
    with pytest.raises(InputError, match="was changed"):
        await rows_of(source)


async def test_the_fingerprint_is_url_version_and_size_without_credentials(server):
    source = await opened(f"{server.url}?X-Amz-Signature=abc&part=1")
    (file,) = source.fingerprint()["files"]
    assert file == {"url": f"{server.url}?X-Amz-Signature=***&part=***", "size": len(CSV), "etag": '"1"'}
    server.etag = None
    (copied,) = (await opened(server.url)).fingerprint()["files"]
    assert copied["etag"] == blake2b(CSV, digest_size=16).hexdigest()


async def test_an_empty_file_has_no_rows(server):
    server.data = b""
    source = await asyncio.to_thread(fanout.open_source, server.url.replace(".csv", ".txt"))
    assert await rows_of(source) == []


async def test_header_fields_go_to_the_named_host_alone(server):
    storage = fanout.Storage(https={"Authorization": "Bearer secret-token"})
    other = server.url.replace("127.0.0.1", "localhost")
    assert await rows_of(await opened(f"{server.url[:-6]}/moved.csv?to=/x.csv", storage=storage)) == ROWS
    assert {request.get("Authorization") for request in server.requests} == {"Bearer secret-token"}
    server.requests.clear()
    assert await rows_of(await opened(f"{server.url[:-6]}/moved.csv?to={other}", storage=storage)) == ROWS
    seen = {request["path"].partition("?")[0]: request.get("Authorization") for request in server.requests}
    assert seen == {"/moved.csv": "Bearer secret-token", "/x.csv": None}


@pytest.mark.parametrize(
    "to", ["http://[::zz]/secret-path", "http://[secret", "http://%31%32%37.0.0.1/secret", "http://h:secret/path"]
)
async def test_a_redirect_to_no_url_is_an_error_without_its_text(server, to):
    with pytest.raises(InputError, match="cannot be read: it is redirected to a URL that cannot be read") as caught:
        await opened(f"{server.url[:-6]}/moved.csv?to={quote(to)}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("https://host.example.com/x", "http://host.example.com/x", "without encryption"),
        ("https://host.example.com/x", "https://169.254.169.254/x", "no public host"),
        ("http://host.example.com/x", "http://localhost/x", "no public host"),
        ("http://host.example.com/x", "http://localhost./x", "no public host"),
        ("http://host.example.com/x", "http://\uff11\uff12\uff17.0.0.1/x", "no public host"),
    ],
)
def test_a_redirect_leads_neither_into_the_network_nor_to_plain_text(old, new, problem):
    with pytest.raises(URLError, match=problem):
        module.check_redirect(old, new)


async def test_arrays_are_read_from_any_place(server, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5000.0))
    server.data = (tmp_path / "x.npy").read_bytes()
    source = await asyncio.to_thread(fanout.open_source, server.url.replace(".csv", ".npy"))
    rows = await asyncio.to_thread(lambda: np.concatenate([block.rows for block in source.blocks_from(4000)]))
    np.testing.assert_array_equal(rows, np.arange(4000.0, 5000.0))


GCS_KEY = '{"gcs_base_url": "%s", "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}'


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("breaks", [0, 3])
@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
async def test_every_store_is_asked_for_one_version_also_after_a_broken_connection(server, scheme, breaks, conditions):
    pytest.importorskip("obstore")
    server.last_modified = "Mon, 30 Nov 2026 12:00:00 GMT"
    server.cut, server.breaks, server.conditions = 10_000, breaks, conditions
    origin = server.url.removesuffix("/x.csv")
    options = {
        "s3": {"endpoint": origin, "access_key_id": "key", "secret_access_key": "secret-key", "region": "us-east-1"},
        "gs": {"service_account_key": GCS_KEY % origin},
        "az": {"account_name": "account", "account_key": "c2VjcmV0LWtleQ==", "endpoint": f"{origin}/account"},
    }
    storage = fanout.Storage(**{scheme: options[scheme]})
    source = await opened(f"{scheme}://bucket/in/x.csv", storage=storage)
    assert await rows_of(source) == ROWS
    paths = {unquote(request["path"]).removeprefix("/account") for request in server.requests}
    assert paths == {"/bucket/in/x.csv"}
    server.etag = '"2"'
    with pytest.raises(InputError, match="was changed"):
        await rows_of(source)

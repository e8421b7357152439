"""The promises of the README on real sockets: few requests in vain, none too early, and no secret leaked."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import subprocess
import sys
import traceback
import warnings
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest

from fanout import Client, Endpoint, FanoutError, Limits, RunStopped, Timeouts
from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError, json_answer
from fanout.testing import Background, FaultServer
from tests.cli.conftest import ROOT, Ended, command
from tests.faults.scene import QUICK, X, assert_failed, assert_whole, client, double

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["command"]
ROWS = np.arange(4096 * 3.0).reshape(-1, 3) + 0.5


def poisoned(row: int) -> Callable[[Any], np.ndarray]:
    def model(x: Any) -> np.ndarray:
        rows = np.asarray(x)
        if (rows[:, 0] == ROWS[row, 0]).any():
            raise StatusError(422, "poison")
        return rows * 2

    return model


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize("row", [0, 2000, 4095])
async def test_one_poisoned_row_among_4096_fails_alone_and_costs_at_most_18_requests(
    row: int, concurrency: int
) -> None:
    async with (
        FaultServer(poisoned(row)) as server,
        client(server, chunk_rows=256, limits=Limits(concurrency=concurrency)) as c,
    ):
        result = await c.map(ROWS, on_error="keep")
    assert_failed(result, range(row, row + 1), ROWS * 2)
    (failure,) = result.failures
    assert (failure.status, failure.reason) == (422, "HTTP 422: poison")
    assert server.received <= 16 + 18


async def test_a_401_in_mid_run_stops_it_after_the_requests_in_flight_without_a_retry() -> None:
    async with FaultServer(double) as server:
        server.script(*[None] * 20, 401, *["slow:0.05"] * 7, *[None] * 200)
        async with client(server, chunk_rows=2, limits=Limits(concurrency=8)) as c:
            with pytest.raises(RunStopped) as caught:
                await c.map(X)
    assert caught.value.kind == "refused"
    assert server.received <= 20 + 8
    assert caught.value.result.stats.retries == 0
    assert caught.value.result.ok.sum() == 2 * (server.received - 1), "all but one request had its answer"


async def test_after_a_429_with_retry_after_among_32_in_flight_no_request_comes_for_that_time() -> None:
    async with FaultServer(double) as server:
        server.script("429-retry-after:1", *["slow:0.2"] * 31)
        async with client(server, chunk_rows=2, limits=Limits(concurrency=32)) as c:
            values = await c.map(X)
    assert np.array_equal(values, X * 2)
    pushback = server.times[0]
    assert sum(when < pushback + 1 for when in server.times) == 32
    assert server.received == len(X) // 2 + 1


MARK = "S3CRET"
USER, PASSWORD, QUERY, KEY, TOKEN = f"usr-{MARK}-u", f"pw-{MARK}-p", f"qry-{MARK}-q", f"key-{MARK}-k", f"tok-{MARK}-t"
NEEDLES = (MARK, MARK.lower(), b64encode(f"{USER}:{PASSWORD}".encode()).decode())
ELSEWHERE = f"http://{USER}:{PASSWORD}@elsewhere.test/x?key={QUERY}#{KEY}"


def echo_of(request: ServerRequest) -> str:
    """Return a text with all that a careless server knows of its caller."""
    scheme, _, given = (request.header("Authorization") or "").partition(" ")
    basic = b64decode(given).decode() if scheme == "Basic" else ""
    return f"denied: {basic} {request.path} {dict(request.headers)} user {basic.partition(':')[0]}"


def leaking(status: int, **headers: str) -> Callable[[ServerRequest], ServerResponse]:
    """Return responses that repeat the credentials of the request."""

    def choose(request: ServerRequest) -> ServerResponse:
        message = echo_of(request)
        extra = {name.replace("_", "-"): value.format(message=message) for name, value in headers.items()}
        response = json_answer({"error": {"message": message, "code": message}, "predictions": message}, status=status)
        return ServerResponse(status=status, headers={**response.headers, **extra}, body=response.body)

    return choose


def web_page(request: ServerRequest) -> ServerResponse:
    return ServerResponse(status=200, headers={"Content-Type": "text/html"}, body=f"<html>{echo_of(request)}".encode())


def compressed_by_lies(request: ServerRequest) -> ServerResponse:
    return ServerResponse(status=200, headers={"Content-Encoding": echo_of(request)}, body=b"{}")


FAILING: dict[str, Any] = {
    **{str(status): leaking(status) for status in (400, 401, 402, 403, 404, 413, 418, 422, 429, 500, 503)},
    "quota": lambda r: json_answer({"error": {"code": "insufficient_quota", "message": echo_of(r)}}, status=429),
    "redirect": lambda r: f"redirect:{ELSEWHERE}",
    "redirect to itself": leaking(307, Location="?{message}"),
    "redirect to nonsense": leaking(302, Location="//[{message}"),
    "invalid": leaking(200),
    "web page": web_page,
    "encoding": compressed_by_lies,
    "header too long": leaking(200, X_Echo="{message}" * 40),
    "header without an end": leaking(200, X_Echo="{message}\r\n{message}"),
    "retry-after": leaking(429, Retry_After="{message}"),
    "retry-after too long": leaking(429, Retry_After="1e6"),
    "silence": lambda r: "silence",
    "reset": lambda r: "reset-before-headers",
    "endless": lambda r: "endless",
    "gzip": lambda r: "gzip-not",
    "nan": lambda r: "nan",
}
UNTIL_TIME_IS_UP = {"503", "endless", "retry-after", "silence"}
"""What is tried again until the run's time is over: told with the slow tests."""


class Eavesdropper:
    """Collects every text that reaches a log, an error or a screen."""

    def __init__(self) -> None:
        self.collected: list[str] = []

    def hear(self, *things: object) -> None:
        for thing in things:
            self.collected += [str(thing), repr(thing)]
            if isinstance(thing, BaseException):
                self.collected += traceback.format_exception(thing)

    def assert_nothing(self) -> None:
        for text in self.collected:
            for needle in NEEDLES:
                assert needle not in text


async def told_by_a_failing_run(c: Client, spy: Eavesdropper) -> None:
    """A run and its end, with all that a program could print of it."""
    async with c:
        spy.hear(c)
        for attempt in (c.map(X[:8], on_error="keep"), c.map(X[:8]), c.predict(X[0])):
            try:
                result = await attempt
            except (FanoutError, OSError) as error:
                spy.hear(error, error.__cause__, getattr(error, "__notes__", ""))
                result = getattr(error, "result", None)
            if result is not None and not isinstance(result, np.ndarray):
                spy.hear(result, *result.failures, *result.pending, result.stats)
        spy.hear(c.statistics())
    spy.hear(c)


def with_credentials(url: str, spy: Eavesdropper, *, codec: str = "v1", bearer: bool = False) -> Client:
    """A client whose credentials are in all the places that there are for them."""
    userinfo = "" if bearer else f"{USER}:{PASSWORD}@"
    headers = {"X-Api-Key": KEY} | ({"Authorization": f"Bearer {TOKEN}"} if bearer else {})
    endpoint = Endpoint(url=url.replace("://", f"://{userinfo}") + f"?key={QUERY}", headers=headers)
    spy.hear(endpoint)
    return Client(
        endpoint,
        codec=codec,
        chunk_rows=4,
        limits=Limits(concurrency=2),
        retry=QUICK,
        timeouts=Timeouts(connect=2, attempt=0.1, run=0.25),
        on_event=spy.hear,
    )


@pytest.fixture
def spy(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], few_objects: None) -> Any:
    """Collect the texts that the test adds, and at its end everything logged, printed and warned."""
    caplog.set_level(logging.DEBUG)
    collector = Eavesdropper()
    with warnings.catch_warnings(record=True, action="always") as warned:
        yield collector
        gc.collect()
    captured = capfd.readouterr()
    collector.hear(captured.out, captured.err, caplog.text, *(warning.message for warning in warned))
    collector.assert_nothing()


@pytest.mark.parametrize(
    "bearer", [pytest.param(False, id="userinfo", marks=pytest.mark.slow), pytest.param(True, id="bearer")]
)
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] if way in UNTIL_TIME_IS_UP else []) for way in FAILING]
)
async def test_no_secret_leaks_from_any_failure(way: str, bearer: bool, spy: Eavesdropper) -> None:
    asyncio.get_running_loop().set_debug(True)
    async with FaultServer(double, faults=FAILING[way]) as server:
        await told_by_a_failing_run(with_credentials(server.url("v1"), spy, bearer=bearer), spy)
        sent = [request.path + str(request.headers) for request in server.requests]
    assert all(MARK in request for request in sent), "they were sent, and so could have been told"
    assert any("S3CRET" not in text and "***" in text for text in spy.collected)


@pytest.mark.parametrize("way", ["401", "500", "invalid", "redirect", "web page"])
async def test_no_secret_leaks_when_the_metadata_fails(way: str, spy: Eavesdropper) -> None:
    async with FaultServer(double) as server:
        for _ in range(20):
            server.script_metadata(FAILING[way](ServerRequest(method="GET", path=f"/?key={QUERY}", headers={"X": KEY})))
        await told_by_a_failing_run(with_credentials(server.url("oip"), spy, codec="oip"), spy)


async def test_no_secret_leaks_without_a_connection(spy: Eavesdropper, monkeypatch: Any) -> None:
    system = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith(".test"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return system(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}/m", f"https://127.0.0.1:{port}/m", "http://model.test/m"):
            await told_by_a_failing_run(with_credentials(url, spy), spy)
    async with FaultServer(double) as server:
        https = server.url("v1").replace("http://", "https://")
        await told_by_a_failing_run(with_credentials(https, spy), spy)


@pytest.mark.parametrize(
    "url", [f"htp://{USER}:{PASSWORD}@h/?k={QUERY}", f"http://{USER}:{PASSWORD}/{KEY}@h/", f"{USER}:{PASSWORD}@h/x"]
)
def test_no_secret_of_an_invalid_url_leaks(url: str, spy: Eavesdropper) -> None:
    with pytest.raises(FanoutError) as caught:
        Endpoint(url=url, headers={"X-Api-Key": KEY})
    spy.hear(caught.value)


JOB = """
[input]
path = "x.npy"
[endpoint]
url = "{url}?key=${{QUERY}}"
headers = {{ X-Api-Key = "${{KEY}}", Authorization = "Bearer ${{TOKEN}}" }}
[codec]
name = "v1"
[chunks]
rows = 4
[retry]
max_attempts = 2
initial_backoff = 0.01
[timeouts]
attempt = 2
run = 10
[output]
path = "out/y.npy"
"""


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment variables that the job file names."""
    for name, secret in {"QUERY": QUERY, "KEY": KEY, "TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, secret)


def told_by_a_job(run: Callable[..., Ended], line: str, way: str, folder: Path, spy: Eavesdropper) -> None:
    """A command on a job whose rows, or all but the first of them, fail in this way."""
    np.save(folder / "x.npy", X[:12])
    name, *options = line.split()
    first = f"[[{X[0, 0]}".encode()

    def spare_the_first(request: ServerRequest) -> Any:
        return None if first in request.body and name == "run" else FAILING[way](request)

    with Background(FaultServer(double, faults=spare_the_first)) as server:
        (folder / "job.toml").write_text(JOB.format(url=server.url("v1")))
        result = run(name, "job.toml", *options)
        assert server.received
    assert result.code in (1, 2, 3)
    assert "***" in result.out + result.err
    spy.hear(result.out, result.err)
    spy.hear(*(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()))


@pytest.mark.parametrize(
    ("line", "way"),
    [
        *(("run --json", way) for way in ("401", "400", "422", "500", "redirect", "invalid", "header too long")),
        *(("run", way) for way in ("422", "403", "418")),
        *(("check", way) for way in ("401", "500", "invalid")),
    ],
)
@pytest.mark.usefixtures("secrets")
def test_no_secret_leaks_from_the_command_line(
    line: str, way: str, tmp_path: Path, spy: Eavesdropper, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    told_by_a_job(command, line, way, tmp_path, spy)


@pytest.mark.parametrize(
    ("line", "way"),
    [
        ("run", "422"),
        # The command line in this process has them all.
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("run --json", "500"), ("check", "invalid"))),
    ],
)
@pytest.mark.usefixtures("secrets")
def test_no_secret_leaks_from_a_process_in_development_mode(
    line: str, way: str, tmp_path: Path, spy: Eavesdropper
) -> None:
    def run(*arguments: str) -> Ended:
        process = [sys.executable, "-X", "dev", "-m", "fanout", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(process, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50)
        return Ended(ran.returncode, ran.stdout, ran.stderr)

    told_by_a_job(run, line, way, tmp_path, spy)


async def test_a_request_that_is_still_connecting_obeys_a_pushback_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = aiohttp.TCPConnector.connect
    asked: list[float] = []

    async def slow(self: aiohttp.TCPConnector, *args: Any, **options: Any) -> Any:
        asked.append(asyncio.get_running_loop().time())
        if 1 < len(asked) <= 16:
            await asyncio.sleep(0.5)
        return await connect(self, *args, **options)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", slow)
    came: list[float] = []

    def first_waits(_: ServerRequest) -> str | None:
        came.append(asyncio.get_running_loop().time())
        return "429-retry-after:1" if len(came) == 1 else None

    async with (
        FaultServer(double, faults=first_waits) as server,
        client(server, limits=Limits(concurrency=16), chunk_rows=8) as c,
    ):
        result = await c.map(X, on_error="keep")
        assert c.statistics().in_flight == 0
    assert_whole(result)
    assert sum(moment < came[0] + 1 for moment in came) == 1, "the one that was told"
    assert result.stats.requests == server.received == len(X) // 8 + 1
    assert server.connections <= 16, "those that were made in vain are kept"

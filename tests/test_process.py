"""The process: file descriptors, early imports and the heap."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from fanout.process import is_shortage

resource = pytest.importorskip("resource")

SCRIPT = """
import asyncio, json, logging, os, resource, sys
import numpy as np

SOFT, HARD, LATE, CONCURRENCY, WAY = json.loads(sys.argv[1])
logging.basicConfig(stream=sys.stdout, format="LOG %(message)s")
import fanout
from fanout.testing import FaultServer

X = np.arange(1500 * 3.0).reshape(-1, 3) + 0.5

if WAY == "session":
    from fanout.transport import fast_path
    fast_path.SMALL = -1

async def serve():
    async with FaultServer(lambda x: np.asarray(x) * 2, latency=0.02, record=False) as server:
        print(server.url("v1"), flush=True)
        await asyncio.to_thread(sys.stdin.read)

async def run(url):
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD))
    if not LATE:
        limit()
    endpoint = fanout.Endpoint(url=url.replace("127.0.0.1", "localhost"))
    limits, retry = fanout.Limits(concurrency=CONCURRENCY), fanout.RetryPolicy(max_attempts=1)
    async with fanout.Client(endpoint, codec="v1", chunk_rows=1, limits=limits, retry=retry) as client:
        if LATE:
            limit()
        result = await client.map(X, on_error="keep")
        print(json.dumps({
            "right": bool(result.ok.all()) and bool(np.array_equal(result.values, X * 2)),
            "failures": [str(failure) for failure in result.failures[:3]],
            "requests": result.stats.requests, "retries": result.stats.retries,
            "soft": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }))

if SOFT is None:
    asyncio.run(serve())
else:
    asyncio.run(run(sys.argv[2]))
"""


def run(soft: int, hard: int, *, late: bool, concurrency: int | str, way: str) -> tuple[dict[str, Any], list[str]]:
    """The outcome of a run under these limits, and the lines that were logged."""
    serve, client = [json.dumps(arguments) for arguments in ([None] * 5, [soft, hard, late, concurrency, way])]
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen([*command, serve], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        url = server.stdout.readline().strip()
        done = subprocess.run([*command, client, url], capture_output=True, text=True, timeout=100, check=False)
        server.stdin.close()
    assert done.returncode == 0, done.stderr + done.stdout
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]), [line for line in lines if line.startswith("LOG")]


WAYS = pytest.mark.parametrize("way", ["direct", pytest.param("session", marks=pytest.mark.slow)])


@WAYS
def test_row_66_the_soft_limit_is_raised_if_the_system_allows_it(way: str) -> None:
    outcome, logged = run(256, 4096, late=False, concurrency=1000, way=way)
    assert outcome["right"], outcome
    assert outcome["soft"] > 1000
    assert logged == []


@WAYS
@pytest.mark.parametrize(
    ("concurrency", "late"),
    [
        pytest.param(1000, False, id="1000-known at the start"),
        pytest.param(1000, True, id="1000-found out later", marks=pytest.mark.slow),
        pytest.param("auto", False, id="auto-known at the start", marks=pytest.mark.slow),
        pytest.param("auto", True, id="auto-found out later", marks=pytest.mark.slow),
    ],
)
def test_row_66_otherwise_fewer_requests_are_in_flight_and_no_row_fails(
    late: bool, concurrency: int | str, way: str
) -> None:
    outcome, logged = run(100, 100, late=late, concurrency=concurrency, way=way)
    assert outcome["right"], outcome
    assert (outcome["requests"], outcome["retries"]) == (1500, 0), "no attempt is charged"
    if concurrency == 1000:
        assert len(logged) == 1, "it is said once"
        assert "too few file descriptors for 1000 requests in flight" in logged[0]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_shortage_is_recognized_wherever_it_stands(number: int) -> None:
    bare = OSError(number, "Too many open files")
    wrapped = RuntimeError("no")
    wrapped.__cause__ = bare
    outer = RuntimeError("no")
    outer.os_error = bare  # type: ignore[attr-defined]
    # As aiohappyeyeballs reports the addresses of one host that failed for different reasons.
    refused = OSError(errno.ECONNREFUSED, "refused")
    several = RuntimeError("no")
    several.os_error = OSError(f"Multiple exceptions: {refused}, {bare}")  # type: ignore[attr-defined]
    assert all(map(is_shortage, (bare, wrapped, outer, several)))
    assert not any(map(is_shortage, (None, OSError(errno.ECONNREFUSED, "no"), ValueError("no"))))


LATE_IMPORTS = """
import asyncio, sys
import numpy as np
import fanout
from fanout.testing import FaultServer
from fanout.transport import EndpointClient

codec = sys.argv[1]
rows = ["a", "b"] * 40 if codec.startswith("openai") else np.arange(240.0).reshape(80, 3)
faults = {"500": 0.05, "429-date": 0.05, "nan": 0.05, "null": 0.02, "html": 0.02, "gzip-cut": 0.05, "200-error": 0.05}
modules = set()
post = EndpointClient.post

async def noting(self, *arguments, **options):
    modules.update(set() if modules else sys.modules)
    return await post(self, *arguments, **options)

async def run():
    async with FaultServer(lambda x: np.asarray([[1.0, 2.0]] * len(x)), faults=faults, seed=2) as server:
        url = server.url(codec).replace("127.0.0.1", "localhost")
        options = {"model": "faulty"} if codec.startswith("openai") else {}
        retry = fanout.RetryPolicy(max_attempts=4, initial_backoff=0.001, max_backoff=0.01)
        async with fanout.Client(url, codec=fanout.codec(codec, **options), chunk_rows=4, retry=retry) as client:
            EndpointClient.post = noting
            await client.map(rows, on_error="keep")

asyncio.run(run())
print(sorted(set(sys.modules) - modules))
"""


@pytest.mark.parametrize(
    "codec", ["json", *(pytest.param(name, marks=pytest.mark.slow) for name in ("v1", "oip", "openai-embeddings"))]
)
def test_nothing_is_imported_once_requests_are_sent(codec: str) -> None:
    command = [sys.executable, "-c", LATE_IMPORTS, codec]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


COUNT = """
import resource
from fanout.process import retain_heap

{keep}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [bytearray(2**20) for _ in range(8)]
        del blocks
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10

faults()
print(faults())
"""


def pages_cleared(keep: str, **variables: str) -> int:
    """For every 8 MiB that were freed and are asked for again, in a process of its own."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    plain |= variables
    command = [sys.executable, "-c", COUNT.format(keep=keep)]
    return int(subprocess.run(command, env=plain, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_not_cleared_again() -> None:
    assert pages_cleared("") > 500
    assert pages_cleared("retain_heap()") < 50
    # As in a worker of Dask.
    assert pages_cleared("", MALLOC_TRIM_THRESHOLD_="65536") > 500
    assert pages_cleared("retain_heap()", MALLOC_TRIM_THRESHOLD_="65536") < 50

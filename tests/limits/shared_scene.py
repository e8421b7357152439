"""Real processes that share limits: a Redis server, a counting endpoint, and workers."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

SERVER = shutil.which("valkey-server") or shutil.which("redis-server") or ""
ROOT = Path(__file__).parents[2]


def free_port():
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class RedisServer:
    """A Redis or Valkey on a free port, without a file on disk."""

    def __init__(self, folder, *options):
        self.port, self._folder, self._options = free_port(), folder, options
        self._process = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        command = [SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([*command, *self._options], cwd=self._folder, stdout=log, stderr=log)
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert time.monotonic() < until, (self._folder / "redis.log").read_text()
                time.sleep(0.01)

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self):
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def stop(self):
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()


@contextmanager
def redis_server(folder, *options):
    if not SERVER:
        pytest.skip("neither redis-server nor valkey-server is installed")
    server = RedisServer(folder, *options)
    try:
        yield server.start()
    finally:
        server.stop()


class Lateness:
    """How late this process wakes up, because others use the machine: the longest delay of a timer."""

    worst = 0.0

    async def watch(self):
        while True:
            due = time.monotonic() + 0.002
            await asyncio.sleep(0.002)
            self.worst = max(self.worst, time.monotonic() - due)


class CountingEndpoint:
    """Answers V1 requests, and notes the time and the rows of each. The next ``refusals`` requests get a 429."""

    def __init__(self, *, latency=0.02, retry_after=2):
        self.latency, self.retry_after = latency, retry_after
        self.refusals = 0
        self.refused_at = []
        self.requests = []
        """Time, rows, and number of requests in flight with this one."""
        self.in_flight = 0
        self.lateness = Lateness()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1/models/m:predict"
        self._watch = asyncio.create_task(self.lateness.watch())
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self._watch.cancel()

    async def _serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split()[0])
                rows = json.loads(await reader.readexactly(length))["instances"]
                self.in_flight += 1
                self.requests.append((time.monotonic(), len(rows), self.in_flight))
                try:
                    await self._answer(writer, rows)
                finally:
                    self.in_flight -= 1
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer, rows):
        if self.refusals:
            self.refusals -= 1
            writer.write(b"HTTP/1.1 429 Too Many\r\nRetry-After: %d\r\nContent-Length: 2\r\n\r\n{}" % self.retry_after)
            self.refused_at.append(time.monotonic())
            return
        await asyncio.sleep(self.latency)
        body = json.dumps({"predictions": [row if isinstance(row, float) else row[0] for row in rows]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


WORKER = """
import asyncio, json, sys, time
import numpy as np
import fanout

options = json.loads(sys.argv[1])

async def main():
    settings = {name: getattr(fanout, kind)(**options[name]) for name, kind in
                (("limits", "Limits"), ("retry", "RetryPolicy"), ("timeouts", "Timeouts"), ("cost", "Prices"))
                if name in options}
    count = len if options.get("counts") else None
    async with fanout.Client(options["url"], codec="v1", chunk_rows=options.get("chunk", 1),
                             count_tokens=count, **settings) as client:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        lateness = Lateness()
        watch = asyncio.create_task(lateness.watch())
        rows = np.arange(options["rows"] * options.get("width", 1), dtype=float).reshape(options["rows"], -1)
        try:
            result = await client.map(rows, on_error="keep", timeout=options.get("seconds"))
        except fanout.RunStopped as error:
            report = {"ok": int(error.result.ok.sum()), "kind": error.kind, "reason": str(error)}
        else:
            right = bool((result.values == rows[:, 0]).all()) if result.ok.all() else False
            report = {"ok": int(result.ok.sum()), "kind": "", "right": right}
        print(json.dumps({**report, "late": lateness.worst}))

asyncio.run(main())
"""
WORKER = f"import asyncio, time\n{inspect.getsource(Lateness)}\n{WORKER}"


async def work(options, during=None):
    """Run a worker process for each of ``options``; return their reports. All begin at the same moment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = asyncio.subprocess.PIPE
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, json.dumps(one), stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )
        for one in options
    ]
    try:
        for worker in workers:
            assert await worker.stdout.readline() == b"ready\n", (await worker.stderr.read()).decode()
        for worker in workers:
            worker.stdin.write(b"\n")
        ends = asyncio.gather(*(worker.communicate() for worker in workers))
        if during is not None:
            await during(workers)
        outputs = await asyncio.wait_for(ends, 50)
        return [
            json.loads(output) if worker.returncode == 0 else {"killed": worker.returncode, "words": errors.decode()}
            for worker, (output, errors) in zip(workers, outputs, strict=True)
        ]
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()


def most_in_a_second(requests, units=lambda rows: 1):
    """The most units in any window of one second."""
    most = total = begin = 0
    for at, rows, _ in requests:
        total += units(rows)
        while requests[begin][0] <= at - 1.0:
            total -= units(requests[begin][1])
            begin += 1
        most = max(most, total)
    return most

"""The model server: a thin aiohttp application over the pure handlers of `fanout.serving.protocol`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from fanout.errors import ConfigError
from fanout.serving.exchange import ServerRequest, ServerResponse, json_answer
from fanout.serving.models import Model, load_model
from fanout.serving.protocol import answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MAX_BODY = 2**30
_GRACE = 5.0


def create_app(model: Model, *, latency: float = 0.0) -> web.Application:
    """A web application that serves ``model``; ``GET /stats`` gives the counts so far.

    The function is called in one worker thread, one request after the other, so that ``/healthz`` answers meanwhile.

    Args:
        model: the model to serve.
        latency: seconds that every POST waits before its turn, as on a slower or more distant server.
    """
    server = _Server(model, latency)
    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_get("/stats", server.statistics)
    app.router.add_route("*", "/{path:.*}", server.handle)
    app.cleanup_ctx.append(server.lifetime)
    return app


async def serve(
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    latency: float = 0.0,
    on_ready: Callable[[str], object] | None = None,
) -> None:
    """Serve the model of that name until cancelled; requests in flight then get 5 s to end.

    Args:
        name: ``digits``, ``echo`` or ``package.module:function``.
        host: address to listen on.
        port: port to listen on; 0 for a free one.
        latency: seconds that every POST waits before its turn.
        on_ready: called with the base URL once requests are taken.

    Raises:
        ConfigError: no such model, or the address cannot be listened on.
    """
    app = create_app(load_model(name), latency=latency)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await _listen(site, host, port)
        if on_ready is not None:
            on_ready(_url(runner, host))
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _listen(site: web.TCPSite, host: str, port: int) -> None:
    try:
        await site.start()
    except (OSError, OverflowError) as error:  # OverflowError: a port above 65535
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another port", key="port") from error


def _url(runner: web.AppRunner, host: str) -> str:
    bound_port = runner.addresses[0][1]
    return f"http://[{host}]:{bound_port}" if ":" in host else f"http://{host}:{bound_port}"


@dataclass
class _Server:
    model: Model
    latency: float
    requests: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    rows: int = 0
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "model"))

    async def lifetime(self, app: web.Application) -> AsyncIterator[None]:
        yield
        # Not waited for: a function that hangs must not keep the server from ending.
        self.worker.shutdown(wait=False, cancel_futures=True)

    async def statistics(self, request: web.Request) -> web.Response:
        """Counts of POST requests; ``rows`` are those that the model has answered."""
        names = ("requests", "in_flight", "max_in_flight", "rows")
        return _response(json_answer({name: getattr(self, name) for name in names}))

    async def handle(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        exchange = ServerRequest(method=request.method, path=path, headers=request.headers, body=await request.read())
        if request.method != "POST":
            return _response(answer(self.model, exchange))
        self.requests += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            return _response(await self._predict(exchange))
        finally:
            self.in_flight -= 1

    async def _predict(self, exchange: ServerRequest) -> ServerResponse:
        await asyncio.sleep(self.latency)
        done = await asyncio.get_running_loop().run_in_executor(self.worker, answer, self.model, exchange)
        self.rows += done.rows
        return done


def _response(done: ServerResponse) -> web.Response:
    return web.Response(status=done.status, headers=dict(done.headers), body=done.body)

"""The model server: a thin aiohttp application over the pure handlers of `fanout.serving.protocol`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from aiohttp import web

from fanout.serving.exchange import ServerRequest, cannot_listen
from fanout.serving.models import Model, load_model
from fanout.serving.protocol import ServedModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MAX_BODY = 2**30
_GRACE = 5.0


def create_app(model: Model, *, latency: float = 0.0) -> web.Application:
    """A web application that serves ``model``; ``GET /stats`` gives the counts so far.

    The function is called in one worker thread, one request after the other, so that ``/healthz`` answers meanwhile.
    Every POST waits ``latency`` seconds before its turn, as on a slower or more distant server.
    """
    worker = ThreadPoolExecutor(1, "model")
    server = ServedModel(model, latency=latency, worker=worker)

    async def handle(request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        received = ServerRequest(method=request.method, path=path, headers=request.headers, body=await request.read())
        response = await server.respond(received)
        return web.Response(status=response.status, headers=dict(response.headers), body=response.body)

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        yield
        # Not waited for: a function that hangs must not keep the server from ending.
        worker.shutdown(wait=False, cancel_futures=True)

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_route("*", "/{path:.*}", handle)
    app.cleanup_ctx.append(lifetime)
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

    Raises `ConfigError` for an unknown model, and an address that cannot be listened on.

    Args:
        name: ``digits``, ``echo`` or ``package.module:function``.
        host: address to listen on.
        port: port to listen on; 0 for a free one.
        latency: seconds that every POST waits before its turn.
        on_ready: called with the base URL once requests are taken.
    """
    app = create_app(load_model(name), latency=latency)
    # A log line for each request would only slow the server down.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except (OSError, OverflowError) as error:  # OverflowError: a port above 65535
            raise cannot_listen(host, port, error) from error
        if on_ready is not None:
            on_ready(_url(runner, host))
        # Until cancelled: the function of aiohttp that runs an app installs signal handlers of its own.
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _url(runner: web.AppRunner, host: str) -> str:
    bound_port = runner.addresses[0][1]
    return f"http://[{host}]:{bound_port}" if ":" in host else f"http://{host}:{bound_port}"

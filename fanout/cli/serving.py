"""``fanout serve``: the local model server until a signal comes."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import click

from fanout.cli.output import print_error
from fanout.errors import ConfigError
from fanout.faults.names import parse_faults
from fanout.faults.server import serve_faulty
from fanout.serving.app import serve

if TYPE_CHECKING:
    from collections.abc import Coroutine


def serve_command(name: str, host: str, port: int, latency: float, faults: str | None = None, seed: int = 0) -> int:
    """Serve a model, with faults where some are asked for; returns the exit code."""
    try:
        if faults is None:
            serving = serve(name, host, port, latency=latency, on_ready=_announce)
        else:
            some = parse_faults(faults)
            serving = serve_faulty(name, host, port, faults=some, seed=seed, latency=latency, on_ready=_announce)
        return asyncio.run(_until_signalled(serving))
    except ConfigError as error:
        return print_error(str(error), 2)


async def _until_signalled(serving: Coroutine[None, None, None]) -> int:
    loop, received = asyncio.get_running_loop(), []
    server = loop.create_task(serving)

    def end(number: signal.Signals) -> None:
        received.append(number)
        server.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    try:
        await server
    except asyncio.CancelledError:
        if not received:
            raise
    return 128 + received[0]


def _announce(url: str) -> None:
    click.echo(url)  # click flushes: whoever started this may wait for the line
    click.echo("press Ctrl-C to stop", err=True)

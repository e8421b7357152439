"""``fanout serve``: the local model server until a signal comes."""

from __future__ import annotations

import asyncio
import signal

import click

from fanout.cli.output import print_error
from fanout.errors import ConfigError
from fanout.serving.app import serve


def serve_command(name: str, host: str, port: int, latency: float) -> int:
    """Serve a model; returns the exit code."""
    try:
        return asyncio.run(_serve(name, host, port, latency))
    except ConfigError as error:
        return print_error(str(error), 2)


async def _serve(name: str, host: str, port: int, latency: float) -> int:
    loop, received = asyncio.get_running_loop(), []
    server = loop.create_task(serve(name, host, port, latency=latency, on_ready=_announce))

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

"""Responses of aioresponses, for tests that mock aiohttp's session with it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp


class MockedResponse(aiohttp.ClientResponse):
    """The class of responses for aioresponses with aiohttp 3.14 and later: ``mock.post(url, response_class=...)``.

    Up to 0.7.9 aioresponses passes no stream writer to the response, feeds a large body into a stream that then tries
    to pause a connection which does not exist, and invents a loop in debug mode, in which each response records the
    whole stack (aioresponses#289).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"stream_writer": _Nothing} | kwargs | {"loop": asyncio.get_running_loop()}))

    def __setattr__(self, name: str, value: Any) -> None:
        # aioresponses makes the stream itself, and fills it in the next step.
        if name == "content":
            value = aiohttp.StreamReader(_Nothing(), limit=2**16, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        super().__setattr__(name, value)


class _Nothing:
    """The part of a connection, and of its writer, that a response uses which has arrived as a whole."""

    output_size = 0
    _reading_paused = False

    def pause_reading(self, **_: Any) -> None:
        return

    def resume_reading(self, **_: Any) -> None:
        return

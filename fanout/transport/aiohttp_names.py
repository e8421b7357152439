"""The one place that decides whether the undocumented names of aiohttp can be used.

The connector, the fast path and the receiver of large bodies use names that aiohttp does not document. They are used
with the releases that fanout was tested with. With another release the session sends all requests: over kept
connections if the names of the connector still exist, else over a new connection each. That is slower, and as correct.
"""

from __future__ import annotations

import inspect
import logging
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import client_proto, connector, hdrs
from yarl import URL

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.http import RawResponseMessage

TESTED_WITH = "3.14."

_log = logging.getLogger("fanout")
_NAMES: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    (
        "ResponseHandler",
        client_proto.ResponseHandler,
        ("should_close", "is_connected", "force_close", "closed", "read", "__len__"),
    ),
    ("Connection", connector.Connection, ("protocol", "release", "close")),
    ("StreamReader", aiohttp.StreamReader, ("is_eof", "read_nowait", "readany", "set_exception")),
)
# A service opens many clients, and each would repeat the same warning.
_warned: set[str] = set()


class Use(IntEnum):
    """The extent to which aiohttp's undocumented names are used."""

    NONE = 0
    """Every request has a connection of its own."""

    CONNECTOR = 1
    """Connections are kept, and their sockets are checked before they serve again."""

    ALL = 2
    """Small requests take the fast path, and large bodies are received in place."""


class PlainRequest(aiohttp.ClientRequest):
    """The request by which the fast path asks for connections: always the same one, so its key is computed once."""

    @cached_property
    def connection_key(self) -> ConnectionKey:
        return super().connection_key


def usable() -> Use:
    """The names that the installed aiohttp allows to use. Anything less than all is logged, once."""
    if (problem := _problem_of_connector()) is not None:
        return _fall_back(Use.NONE, problem)
    if not aiohttp.__version__.startswith(TESTED_WITH):
        return _fall_back(Use.CONNECTOR, f"fanout was tested with {TESTED_WITH}x")
    if (problem := _problem_of_requests()) is not None:
        return _fall_back(Use.CONNECTOR, problem)
    return Use.ALL


def unread_messages(protocol: ResponseHandler) -> list[RawResponseMessage]:
    """Take the heads of the responses that a connection has received and that belong to no request."""
    messages = []
    while len(protocol):
        try:
            protocol.read().send(None)  # with something there it does not wait
        except StopIteration as done:
            messages.append(done.value[0])
    return messages


def _problem_of_connector() -> str | None:
    for shown, owner, names in _NAMES:
        for name in names:
            if not hasattr(owner, name):
                return f"{shown}.{name} is missing"
    try:
        inspect.signature(aiohttp.TCPConnector.connect).bind(None, None, [], None)
    except (TypeError, ValueError, AttributeError):
        return "TCPConnector.connect takes other arguments"
    return None


def _problem_of_requests() -> str | None:
    try:
        request: Any = PlainRequest(hdrs.METH_POST, URL("http://fanout.invalid/"))
        request.connection_key, request.headers, request.request_info  # noqa: B018 - they have to be there
        inspect.signature(client_proto.ResponseHandler.set_response_params).bind(
            None, read_until_eof=True, auto_decompress=False, max_line_size=1, max_field_size=1, max_headers=1
        )
    except Exception as error:  # noqa: BLE001 - a constructor of another release may raise anything
        return f"ClientRequest or ResponseHandler has changed ({type(error).__name__}: {error})"
    return None


def _fall_back(use: Use, problem: str) -> Use:
    result = "every request has a new connection" if use is Use.NONE else "small requests take up to twice the CPU time"
    text = f"aiohttp {aiohttp.__version__} is not the release that fanout knows ({problem}): {result}; install 3.14"
    if text not in _warned:
        _warned.add(text)
        _log.warning("%s", text)
    return use

"""A whole client in front of made-up servers: a transport in place of the network."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from multidict import CIMultiDict

from fanout import Codec, Payload, Response
from fanout.errors import TransportError
from tests.simulator.servers import RESET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.transport import Request
    from tests.simulator.servers import Outcome, Server


class Doubled(Codec):
    """Numbers as their bytes; each comes back doubled."""

    name = "doubled"
    path = "/"

    def encode(self, rows: Any) -> Payload:
        return Payload(body=np.ascontiguousarray(rows, np.float64).tobytes())

    def decode(self, response: Response, n_rows: int) -> Any:
        return np.frombuffer(response.body).reshape(n_rows, -1)


class Simulated:
    """Brings every request to the server of its host. To be used on the clock that the servers have."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._servers = servers

    async def send(self, sent: Request) -> Response:
        came: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not came.done():  # the client has not gone
                came.set_result(outcome)

        self._servers[urlsplit(sent.url).hostname or ""].submit(done)
        outcome = await came
        if outcome.status == RESET:
            raise TransportError("connection reset by the simulated server")
        headers = CIMultiDict({} if outcome.retry_after is None else {"Retry-After": f"{outcome.retry_after:.3f}"})
        body = (2 * np.frombuffer(sent.joined())).tobytes() if outcome.status == 200 else b""
        return Response(status=outcome.status, headers=headers, body=body, url=sent.url)

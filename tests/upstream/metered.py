"""A made-up API that counts tokens and bills them, in place of the network."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout import Codec, DecodedResponse, Payload, Response
from fanout.errors import ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.transport import Request

INPUT, OUTPUT = 10, 5
"""Tokens of a row and of its answer."""

# Four bytes to a token, and a bound on the tokens of the answer: an estimate is exact before any usage is known.
_ROW = b'"max_tokens":5,%025d'
_BYTES = 4 * INPUT


class Counting(Codec):
    """``{"rows": [...]}`` to ``{"answers": [...], "usage": {...}}``."""

    name = "counting"
    path = "/v1/answers"

    def encode(self, rows: Any) -> Payload:
        return Payload(body=b"".join(_ROW % int(row) for row in rows))

    def decode(self, response: Response, n_rows: int) -> Any:
        document = response.json()
        return DecodedResponse(np.array(document["answers"]), usage=document.get("usage") or {})


class MeteredApi:
    """Doubles the rows and bills them.

    Args:
        plan: what happens to each request, by its number: "ok", "500" (not billed), "429" (not billed), "hang" (billed,
            never answered), "refused" (no connection), "slow" (three times the latency).
        tokens: input and output tokens of a request of so many rows; by default in proportion.
        reports: the responses have a usage.
    """

    offline = True

    def __init__(
        self,
        plan: Callable[[int], str] = lambda number: "ok",
        *,
        latency: float = 1.0,
        tokens: Callable[[int], tuple[int, int]] = lambda rows: (INPUT * rows, OUTPUT * rows),
        reports: bool = True,
    ) -> None:
        self._plan = plan
        self._latency = latency
        self._tokens = tokens
        self._reports = reports
        self.requests = 0
        self.rows = 0
        self.input = self.output = 0
        """Tokens billed."""

        self.in_flight = self.most_in_flight = 0
        self.starts: list[float] = []

    async def send(self, request: Request) -> Response:
        self.requests += 1
        step = self._plan(self.requests - 1)
        if step == "refused":
            raise ConnectError("refused by the plan")
        self.starts.append(asyncio.get_running_loop().time())
        body = request.joined()
        rows = [int(body[at + 15 : at + _BYTES]) for at in range(0, len(body), _BYTES)]
        given, output = self._tokens(len(rows))
        if not step.isdigit():
            # It is billed from the moment at which it arrives, whatever becomes of its answer.
            self.input, self.output, self.rows = self.input + given, self.output + output, self.rows + len(rows)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep({"hang": 1e6, "slow": 3 * self._latency}.get(step, self._latency))
        finally:
            self.in_flight -= 1
        if step.isdigit():
            return Response(status=int(step), headers={}, body=b"{}", url=request.url)
        usage = {"usage": {"prompt_tokens": given, "completion_tokens": output}} if self._reports else {}
        answer = orjson.dumps({"answers": [[2.0 * row] for row in rows], **usage})
        return Response(status=200, headers={}, body=answer, url=request.url)

"""One HTTP exchange as plain data: what came, what goes back, and an error that each protocol words in its own way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRequest:
    """One HTTP request, its body complete and without content encoding."""

    method: str
    path: str
    """As sent: percent-encoded, with or without a query."""

    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The value of a header field, whatever the case of its name; None where there is none."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """The parsed body. Raises `StatusError` (400) when it is not JSON."""
        return parsed(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerResponse:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    rows: int = 0
    """Rows that the model has answered here, for the server's statistics."""


class StatusError(Exception):
    """A request that gets no values back: ``status`` says whose fault it is, the message what is wrong.

    ``param`` is the field at fault and ``code`` the machine's word for it, where the protocol has room for them.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def parsed(data: bytes) -> Any:
    """``data`` as JSON. Raises `StatusError` (400) when it is not."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise StatusError(400, f"the body is not JSON: {error}") from None


def dumped(payload: Any) -> bytes:
    """``payload``, numpy arrays included, as JSON. Raises `StatusError` (500) when it holds what JSON cannot say."""
    try:
        return orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise StatusError(500, f"the model's answer cannot be written as JSON: {error}") from None


def json_answer(payload: Any, *, status: int = 200, rows: int = 0) -> ServerResponse:
    """An answer whose body is ``payload`` as JSON. Raises `StatusError` (500) when it holds what JSON cannot say."""
    return ServerResponse(status=status, headers={"Content-Type": JSON_TYPE}, body=dumped(payload), rows=rows)


def plain_error(error: StatusError) -> ServerResponse:
    """``{"error": "..."}``: how the V1 and V2 protocols say what is wrong."""
    return json_answer({"error": str(error)}, status=error.status)


def openai_error(error: StatusError) -> ServerResponse:
    """``{"error": {"message", "type", "param", "code"}}``: how OpenAI says it."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return json_answer({"error": body}, status=error.status)

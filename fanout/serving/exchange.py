"""One HTTP exchange as the server sees it: the request, the response, and an error that each protocol words its way."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson

from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

JSON_TYPE = "application/json"
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


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
        # Names of header fields have no case (RFC 9110, section 5.1).
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """The parsed body. Raises `StatusError` (400) when it is not JSON."""
        return parsed(self.body)

    def json_object(self) -> dict[str, Any]:
        """The parsed body. Raises `StatusError` (400) when it is no JSON object."""
        body = self.json()
        if not isinstance(body, dict):
            raise StatusError(400, "the body must be a JSON object")
        return body

    def uncompressed(self) -> ServerRequest:
        """The request without gzip. A body that is damaged, or encoded otherwise, is for the parser."""
        try:
            gzipped = (self.header("Content-Encoding") or "").lower() == "gzip"
            return replace(self, body=zlib.decompress(self.body, wbits=31)) if gzipped else self
        except zlib.error:
            return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerResponse:
    """One HTTP response."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    rows: int = 0
    """Rows that the model has answered in it, for the server's statistics."""

    def head(self, fields: Iterable[str] = ()) -> bytes:
        """The status line and the header, with ``fields`` (``"Name: value"``) that frame the body."""
        lines = [f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, 'Unknown')}"]
        lines += (f"{name}: {value}" for name, value in self.headers.items())
        return "\r\n".join([*lines, *fields, "", ""]).encode("latin-1")

    def encoded(self) -> bytes:
        """The whole response as a correct server sends it."""
        return self.head([f"Content-Length: {len(self.body)}"]) + self.body


class StatusError(Exception):
    """A request that gets an error in place of values.

    ``param`` names the field at fault and ``code`` is a code for programs, where the protocol has room for them.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def cannot_listen(host: str, port: int, error: Exception) -> ConfigError:
    """The error of a server that cannot have its address."""
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another port", key="port")


def parsed(data: bytes) -> Any:
    """``data`` as JSON. Raises `StatusError` (400) when it is not."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise StatusError(400, f"the body is not JSON: {error}") from None


def json_answer(payload: Any, *, status: int = 200, rows: int = 0) -> ServerResponse:
    """A response whose body is ``payload``, numpy arrays included, as JSON.

    Raises `StatusError` (500) for values that JSON cannot express.
    """
    try:
        body = orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise StatusError(500, f"the model's answer cannot be written as JSON: {error}") from None
    return ServerResponse(status=status, headers={"Content-Type": JSON_TYPE}, body=body, rows=rows)


def plain_error(error: StatusError) -> ServerResponse:
    """``{"error": "..."}``: an error of the V1 and V2 protocols."""
    return json_answer({"error": str(error)}, status=error.status)


def openai_error(error: StatusError) -> ServerResponse:
    """``{"error": {"message", "type", "param", "code"}}``: an error of OpenAI's APIs."""
    # The two types by which OpenAI's own libraries distinguish faults of the request from those of the server.
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return json_answer({"error": body}, status=error.status)

"""Data types that pass between the layers: rows, chunks, requests, responses and verdicts.

Input side: `Rows` are cut into a `Chunk` each, which a codec encodes into a `Payload`. Output side: a `Response` is
decoded into `Values` and validated against a `Schema`. A failed attempt becomes a `Verdict`. `fanout.results` has the
outcomes that users see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import orjson

from fanout import exact_json
from fanout._escape import shortened
from fanout.errors import InvalidResponse

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Values: TypeAlias = Mapping[str, Array]
"""Output name -> array of shape (rows, ...). A codec with one unnamed output uses the name ``""``."""

Answers: TypeAlias = Array | dict[str, Array]
"""Return type of a call: one array, or a dict of arrays for a codec with several outputs; axis 0 is the rows."""

Schema: TypeAlias = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Output name -> dtype and shape of one row. All responses of a run have the same schema."""

Rows: TypeAlias = Array | Sequence[Any] | Mapping[str, Array]
"""Input rows: an array (row i is ``X[i]``), a list of texts, dicts or lists, or a mapping of arrays of one length."""

Buffer: TypeAlias = bytes | bytearray | memoryview

StopKind: TypeAlias = Literal[
    "unreachable", "refused", "quota", "redirect", "pushback", "deadline", "stall", "max_requests", "cost", "rejected",
    "metadata", "interrupted", "output", "error", "internal",
    "duplicate",
]  # fmt: skip
"""Machine-readable reason why a run stopped early."""

Priority: TypeAlias = Literal["interactive", "bulk"]
"""Priority of the requests of one call: those of interactive calls go before those of bulk calls of the same client."""

ErrorKind: TypeAlias = Literal["content", "rows", "dtype", "shape", "nonfinite", "model"]
"""Class of fault in a response with status 200.

``"content"``: its syntax, or a missing part. ``"rows"``, ``"dtype"``, ``"shape"``, ``"nonfinite"``: validation against
the request and the schema failed. ``"model"``: another model answered.
"""


class Block(NamedTuple):
    """Consecutive rows of a source, with their ids if the source has ids."""

    rows: Rows
    ids: Sequence[Any] | None = None


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """In place of the bytes of a file that cannot be read. The row that holds it fails alone."""

    reason: str
    """Begins with "the file ...", and holds no secret."""


class PassedUrl(str):
    """The URL of a file that is not fetched: a request may pass it on as a text, but has no bytes of it."""

    __slots__ = ()


def schema_of(outputs: Values | None) -> Schema | None:
    """Return the dtype and row shape of each output; None for None."""
    return None if outputs is None else {name: (array.dtype, array.shape[1:]) for name, array in outputs.items()}


# Chunk, Payload, Response and ChunkResult are created for every request, and creating a frozen dataclass takes three
# times as long. They are not frozen for that reason alone: do not modify them.
@dataclass(slots=True, unsafe_hash=True)
class Chunk:
    """The rows ``start <= i < stop`` of the input: the unit of request and retry."""

    start: int
    stop: int
    ids: Sequence[Any] | None = field(default=None, compare=False, repr=False)
    """Ids of these rows, if the input has ids."""

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"rows {self.start}:{self.stop}"


@dataclass(slots=True, kw_only=True)
class Payload:
    """An encoded request body. It is encoded once for each chunk, and every attempt sends the same one."""

    body: Buffer | tuple[Buffer, ...] = field(repr=False)
    """The bytes; or several buffers, which are sent in order without being joined."""

    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    path: str = field(default="", repr=False)
    """Appended to the path of the endpoint's URL, percent-encoded. It begins with ``/``, and may have a query."""

    gzip: Any = field(default=None, init=False, repr=False, compare=False)
    """The body in gzip, which the transport keeps here for further attempts."""

    @property
    def nbytes(self) -> int:
        """Length of the body in bytes."""
        if type(self.body) is bytes:  # the common case, on the path of every request
            return len(self.body)
        parts = self.body if isinstance(self.body, tuple) else (self.body,)
        return sum(memoryview(part).nbytes for part in parts)

    def holds(self, words: str) -> bool:
        """True if the body contains ``words``, ignoring case."""
        parts = self.body if isinstance(self.body, tuple) else (self.body,)
        return any(words.lower().encode() in bytes(memoryview(part)).lower() for part in parts)


@dataclass(slots=True, kw_only=True)
class Response:
    """A complete HTTP response: its body is decompressed and within the byte cap. The repr shows no content."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Header fields; look-up ignores case."""

    body: bytes = field(repr=False)
    url: str = field(default="", repr=False)

    def json(self) -> Any:
        """Parse the body as JSON; integers of any size stay exact.

        Raises:
            InvalidResponse: the body is not JSON, or its objects could take more memory than a response may.
        """
        # A small body of nested lists can become many times as large as Python objects.
        if reason := exact_json.too_heavy(self.body):
            raise InvalidResponse(f"the answer {reason}")
        try:
            return exact_json.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise InvalidResponse(f"the answer is not JSON ({error}): {self.excerpt()}") from None

    def excerpt(self, limit: int = 300) -> str:
        """Return the beginning of the body on one line of at most ``limit`` characters, for error messages."""
        # A UTF-8 character has at most four bytes, so this many are enough for `limit` characters.
        n_bytes = 4 * limit
        text = " ".join(self.body[:n_bytes].decode("utf-8", "replace").split())
        if not text:
            return "(empty body)"
        if len(text) <= limit and len(self.body) > n_bytes:
            return text.rstrip("\ufffd") + "..."  # the cut may have split a character
        return shortened(text, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Required dtype and shape of one output. None leaves a property, or one length of the shape, to be learnt."""

    dtype: np.dtype[Any] | None = None
    shape: tuple[int | None, ...] | None = None
    """Shape of one row, without the axis of the rows: ``(10,)`` for 10 probabilities a row."""


@dataclass(frozen=True, slots=True)
class DecodedResponse:
    """Decoded values with metadata: returned by `Codec.decode` in place of bare values if the API reports usage."""

    values: Array | Values = field(repr=False)
    usage: Mapping[str, int] = field(kw_only=True)
    """Units that the API counted (``"total_tokens"``, ...); `Statistics` sums them up."""

    model: str | None = field(default=None, kw_only=True)
    """Name of the model in the response. All endpoints of a client must report the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of a model, in the terms of its protocol."""

    name: str
    datatype: str
    shape: tuple[int, ...] | None = None
    """Shape with the axis of the rows; -1 stands for any length. None: the server does not report it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A server's description of its model. Fields that the server does not report are empty."""

    name: str = ""
    platform: str = ""
    versions: tuple[str, ...] = ()
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


class Action(Enum):
    """The step that follows a failed attempt."""

    RETRY = "retry"
    """Send the chunk again after a backoff."""

    RESEND = "resend"
    """Send it again at once on a fresh connection. It happens once, and counts as no attempt."""

    SPLIT = "split"
    """The rows, or their number, may be at fault: send the two halves."""

    FAIL = "fail"
    """Another attempt would end the same way: fail the rows."""

    STOP = "stop"
    """No request of this run can succeed: stop the run."""


_OVERLOADED = frozenset({429, 503, 529})

# Statuses of a gateway whose server crashes, or does not answer in time.
_GATEWAY = frozenset({502, 504})

_CRASHED = _GATEWAY | {500}

# Kinds of invalid responses that a server may give when the request is too large for it.
_TRUNCATED: frozenset[ErrorKind | None] = frozenset({"rows", "content"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The classification of a failed attempt."""

    action: Action
    reason: str
    """Description for people: the status and the beginning of the server's message. It holds no secret."""

    status: int | None = None
    pushback: float | None = None
    """Seconds for which the server accepts no request."""

    overload: bool = False
    """The server is overloaded (429, 503, a timeout)."""

    error_kind: ErrorKind | None = None
    """Fault of a response with status 200."""

    unreachable: bool = False
    """No HTTP response arrived."""

    broke_off: bool = False
    """No HTTP response arrived although the request was sent: the connection broke, or the time ran out."""

    stop: StopKind = "refused"
    """Kind of the stop, if ``action`` is STOP."""

    without_values: bool = False
    """The response has status 200 and holds nothing that could be values: it may be an error in unknown words."""

    about_rows: bool = False
    """The codec knows that rows are at fault (too long, filtered): the failure does not count against the endpoint.
    Where a codec sets it with FAIL, a request of several rows is split, so that the rows at fault fail alone."""

    reask: Payload | None = field(default=None, repr=False)
    """The request that asks again for rows whose answer is invalid, to be sent in place of the last."""

    @property
    def rows_suspect(self) -> bool:
        """The rows may have caused this retryable failure: a 500, an invalid response, a timeout."""
        # Some servers work on a bad row until the deadline.
        timed_out = self.overload and self.unreachable
        return self.status == 500 or self.error_kind is not None or timed_out

    @property
    def may_be_size(self) -> bool:
        """The size of the request is among the possible causes of this retryable failure."""
        return self.broke_off or self.status in _CRASHED or self.error_kind in _TRUNCATED

    @property
    def needs_proof(self) -> bool:
        """The failure proves nothing about the rows until another request succeeds: an outage looks the same."""
        return self.broke_off or self.status in _GATEWAY

    @property
    def forbidden(self) -> bool:
        """The endpoint refused these rows, as a moderator does, or the credentials: a 403 says either."""
        return self.status == 403

    @property
    def no_room(self) -> bool:
        """The server had too many requests and rejected this one unread, so it proves nothing about the rows."""
        return self.status in _OVERLOADED

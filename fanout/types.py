"""The words that the floors above share: rows, chunks, payloads, replies, verdicts, results."""

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
from fanout.weight import too_heavy

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Values: TypeAlias = Mapping[str, Array]
"""Output name -> array whose first axis is the rows. A codec with one unnamed output calls it ``""``."""

Answers: TypeAlias = Array | dict[str, Array]
"""What a call gives: one array, or a dict of them where the codec has several outputs. Their first axis is the rows."""

Schema: TypeAlias = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""What all answers of a run look like: output name -> dtype, shape of one row."""

Rows: TypeAlias = Array | Sequence[Any] | Mapping[str, Array]
"""Input: an array (row i is ``X[i]``), a list of texts, dicts or lists, or several arrays of one length by name."""

Buffer: TypeAlias = bytes | bytearray | memoryview

StopKind: TypeAlias = Literal[
    "unreachable", "refused", "quota", "redirect", "pushback", "deadline", "stall", "max_requests", "rejected",
    "metadata", "interrupted", "output", "error", "internal",
    "duplicate",
]  # fmt: skip
"""Why a run was stopped, for machines."""

ErrorKind: TypeAlias = Literal["content", "rows", "dtype", "shape", "nonfinite", "model"]
"""What an invalid answer got wrong: its content (syntax, missing parts), what the proof of it found, or who gave it."""


class Block(NamedTuple):
    """Some consecutive rows of a source."""

    rows: Rows
    ids: Sequence[Any] | None = None
    """One a row, where the source has them."""


def schema_of(outputs: Values | None) -> Schema | None:
    """What ``outputs`` look like; None for none."""
    return None if outputs is None else {name: (array.dtype, array.shape[1:]) for name, array in outputs.items()}


def count_rows(rows: Rows) -> int:
    """The number of rows."""
    if isinstance(rows, Mapping):
        return len(next(iter(rows.values()), ()))
    return len(rows)


def take_rows(rows: Rows, index: slice | Array) -> Rows:
    """Some of the rows, as the same kind of container; views where the container can give them."""
    if isinstance(rows, np.ndarray):
        return rows[index]
    if isinstance(rows, Mapping):
        return {name: column[index] for name, column in rows.items()}
    if isinstance(index, slice):
        return rows[index]
    return [rows[int(i)] for i in index]


def join_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of ``parts`` one after the other, in one container.

    An array where all are arrays of one dtype and row shape, a mapping where all are mappings of such arrays by the
    same names; else a list of single rows, in which a row of a mapping is a dict.
    """
    if len(parts) == 1:
        return parts[0]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if parts and len(arrays) == len(parts) and _alike(arrays):
        return np.concatenate(arrays)
    columns = [part for part in parts if isinstance(part, Mapping)]
    if parts and len(columns) == len(parts) and all(part.keys() == columns[0].keys() for part in columns):
        by_name = {name: [part[name] for part in columns] for name in columns[0]}
        if all(map(_alike, by_name.values())):
            return {name: np.concatenate(pieces) for name, pieces in by_name.items()}
    return [row for part in parts for row in single_rows(part)]


def single_rows(rows: Rows) -> list[Any]:
    """The rows as a list; those of a mapping as dicts."""
    if isinstance(rows, Mapping):
        return [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    return list(rows)


def _alike(arrays: Sequence[Array]) -> bool:
    # Fixed-width texts differ in their width alone: the wider one holds all.
    dtypes = {array.dtype.kind if array.dtype.kind in "US" else array.dtype for array in arrays}
    return len(dtypes) == 1 and len({array.shape[1:] for array in arrays}) == 1


# Four of these are made for every request, and a frozen one takes three times as long to make: so they are not
# frozen, though nobody changes them.
@dataclass(slots=True, unsafe_hash=True)
class Chunk:
    """The rows ``start <= i < stop`` of the input: the unit of request and retry."""

    start: int
    stop: int
    ids: Sequence[Any] | None = field(default=None, compare=False, repr=False)
    """What the input calls its rows, where it does."""

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"rows {self.start}:{self.stop}"


@dataclass(slots=True, kw_only=True)
class Payload:
    """One encoded request body: made once a chunk, sent by every attempt of it."""

    body: Buffer | tuple[Buffer, ...] = field(repr=False)
    """The bytes, or several buffers to be sent one after the other without being joined."""

    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def nbytes(self) -> int:
        """Length of the body."""
        if type(self.body) is bytes:  # nearly always
            return len(self.body)
        parts = self.body if isinstance(self.body, tuple) else (self.body,)
        return sum(memoryview(part).nbytes for part in parts)

    def holds(self, words: str) -> bool:
        """True if the body holds ``words``, in any case."""
        parts = self.body if isinstance(self.body, tuple) else (self.body,)
        return any(words.lower().encode() in bytes(memoryview(part)).lower() for part in parts)


@dataclass(slots=True, kw_only=True)
class Response:
    """One whole HTTP answer, its body complete, decoded and within the byte cap. The repr shows no content."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Header fields; look-up ignores case."""

    body: bytes = field(repr=False)
    url: str = field(default="", repr=False)

    def json(self) -> Any:
        """The parsed body, with every integer as it is written.

        Raises `InvalidResponse` when it is not JSON, or when its objects might take more memory than an answer may.
        """
        if why := too_heavy(self.body):
            raise InvalidResponse(f"the answer {why}")
        try:
            return exact_json.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise InvalidResponse(f"the answer is not JSON ({error}): {self.excerpt()}") from None

    def excerpt(self, limit: int = 300) -> str:
        """The first part of the body on one line, for error messages."""
        most = 4 * limit
        text = " ".join(self.body[:most].decode("utf-8", "replace").split())
        if not text:
            return "(empty body)"
        if len(text) <= limit and len(self.body) > most:
            return text.rstrip("\ufffd") + "..."  # a character may be cut, too
        return shortened(text, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """What one output has to look like. ``None`` leaves a property, or one length of the shape, to be learnt."""

    dtype: np.dtype[Any] | None = None
    shape: tuple[int | None, ...] | None = None
    """Shape of one row, without the axis of the rows: ``(10,)`` for 10 probabilities a row."""


@dataclass(frozen=True, slots=True)
class DecodedResponse:
    """What `Codec.decode` may return in place of bare values, where the API tells what the answer has cost."""

    values: Array | Values = field(repr=False)
    usage: Mapping[str, int] = field(kw_only=True)
    """What was counted (``"total_tokens"``, ...), summed up in `Statistics`."""

    model: str | None = field(default=None, kw_only=True)
    """What the answer calls the model: of several endpoints all have to say the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output, in the words of its protocol."""

    name: str
    datatype: str
    shape: tuple[int, ...] | None = None
    """With the axis of the rows; -1: any length. None: not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a server says of its model; empty where it does not tell."""

    name: str = ""
    platform: str = ""
    versions: tuple[str, ...] = ()
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


class Action(Enum):
    """What is to be done with a chunk after an attempt that did not succeed."""

    RETRY = "retry"
    """Send it again after a backoff."""

    RESEND = "resend"
    """Send it again at once on a fresh connection; free of charge, once."""

    SPLIT = "split"
    """Its rows are to blame, or their number: send the halves."""

    FAIL = "fail"
    """No other attempt can end otherwise: its rows fail."""

    STOP = "stop"
    """No request of this run can succeed: stop it."""


_NO_ROOM = frozenset({429, 503, 529})
_GATEWAY = frozenset({502, 504})
"""A gateway's words for a server behind it that crashes, or that does not answer in time."""

_CRASHED = _GATEWAY | {500}
_CUT_SHORT: frozenset[ErrorKind | None] = frozenset({"rows", "content"})
"""Flaws of an answer that was not finished, or is one for many rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the classifier makes of an attempt that did not succeed."""

    action: Action
    reason: str
    """For people: what happened, with the status and the first part of what the server said. Holds no secret."""

    status: int | None = None
    pushback: float | None = None
    """Seconds for which the server wants no request."""

    overload: bool = False
    """The server has too much to do (429, 503, a timeout)."""

    error_kind: ErrorKind | None = None
    """An answer came with status 200, but is invalid."""

    unreachable: bool = False
    """No HTTP answer came at all."""

    broke_off: bool = False
    """No HTTP answer came, although the request was sent: the connection broke off, or time ran out."""

    stop: StopKind = "refused"
    """The kind of stop, where action is STOP."""

    about_rows: bool = False
    """The codec knows that these rows alone are to blame (too long, filtered): the failure says nothing of others."""

    @property
    def rows_suspect(self) -> bool:
        """The rows may be to blame for a retryable failure: a 500, an invalid answer, no answer in time."""
        timed_out = self.overload and self.unreachable
        return self.status == 500 or self.error_kind is not None or timed_out

    @property
    def may_be_size(self) -> bool:
        """A retryable failure that servers have for requests that are too large, beside many others."""
        return self.broke_off or self.status in _CRASHED or self.error_kind in _CUT_SHORT

    @property
    def needs_proof(self) -> bool:
        """A failure that says nothing of the rows as long as no other request succeeds: an outage looks the same."""
        return self.broke_off or self.status in _GATEWAY

    @property
    def no_room(self) -> bool:
        """The server refused the request unread, for it has too many: that says nothing of the rows."""
        return self.status in _NO_ROOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Rows that have no answer, and why."""

    start: int
    stop: int
    reason: str
    status: int | None
    attempts: int
    endpoint: str
    ids: tuple[Any, ...] = ()
    """What the input calls these rows, where it does."""

    def __str__(self) -> str:
        rows = f"row {self.start}" if self.stop == self.start + 1 else f"rows {self.start}:{self.stop}"
        return f"{rows}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that has happened in a run; for progress displays, metrics and logs. Holds no secret and no data."""

    kind: Literal["done", "failed", "retry", "split", "pause", "stop", "ejected", "back", "out"]
    """The last three are of an endpoint among several: left alone for a while, answering again, asked no more."""

    start: int = 0
    stop: int = 0
    """Rows that it happened to: ``start <= row < stop``."""

    attempt: int = 0
    status: int | None = None
    reason: str = ""
    seconds: float = 0.0
    """Length of a pause that the endpoint asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatistics:
    """What has been asked of one endpoint since its client was opened, and how it stands."""

    url: str
    """Fit to be shown: no secret is in it."""

    requests: int
    in_flight: int
    latency: float | None
    """Seconds; an average of the last answers, quick to rise and slow to fall. None before the first, and where there
    is no other endpoint to compare it with."""

    state: Literal["in use", "left alone", "not asked"]
    """``"left alone"``: for a while, after failures. ``"not asked"``: it refuses all requests, serves another model, or
    has not told yet what it serves."""

    reason: str = ""
    """Why it is not asked, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A snapshot of the counters of a run, or of a client's whole life."""

    rows: int = 0
    """Rows taken from the input so far."""

    ok: int = 0
    failed: int = 0
    requests: int = 0
    """HTTP requests sent, metadata requests included."""

    retries: int = 0
    """Requests that were made again for the same rows; splits are not among them."""

    splits: int = 0
    """Chunks cut in two to find the row, or the size, that the server does not take."""

    hedges: int = 0
    """Second requests for rows whose first took long; they are among the requests."""

    hedges_won: int = 0
    """Those of them whose answer came first."""

    in_flight: int = 0
    max_in_flight: int = 0
    concurrency: int | None = None
    """Most requests in flight, as "auto" has it at this moment; None where the limit is fixed."""

    backing_off: int = 0
    """Chunks that wait for their next attempt."""

    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0
    writing_seconds: float = 0.0
    """Seconds after the last answer in which the output was put in order and in place."""

    latency_p50: float = float("nan")
    """Seconds of one HTTP exchange, whatever its outcome; within 3 %; NaN before the first."""

    latency_p95: float = float("nan")
    latency_p99: float = float("nan")
    endpoints: tuple[EndpointStatistics, ...] = ()
    """How each endpoint stands, in the order in which they were given."""

    usage: Mapping[str, int] = field(default_factory=dict)
    """What the API says that it has counted (``"prompt_tokens"``, ...), summed over all answers that could be read.

    Those that were refused are among them: they are billed too. What an answer cost that never came is not known.
    """

    @property
    def rows_per_second(self) -> float:
        """Rows done in a second."""
        return self.ok / self.seconds if self.seconds > 0 else 0.0


@dataclass(slots=True, kw_only=True)
class ChunkResult:
    """One chunk of the input whose every row is answered or failed (or pending, when the run was stopped)."""

    start: int
    stop: int
    outputs: Values | None
    """Output name -> array of stop - start rows; None when no row of the chunk succeeded."""

    failures: tuple[Failure, ...] = ()
    pending: tuple[Chunk, ...] = ()
    """Rows without an answer because the run was stopped in the middle of this chunk."""

    ids: Sequence[Any] | None = None
    """What the input calls these rows, where it does."""

    @property
    def values(self) -> Any:
        """The array, or a dict of arrays where the codec has several outputs; None when no row succeeded.

        Rows without an answer hold NaN, 0, False or ``""``.
        """
        return unwrapped(self.outputs)

    @property
    def ok(self) -> Array:
        """Mask of the rows that have an answer; shape (stop - start,), bool."""
        mask = np.ones(self.stop - self.start, bool)
        absent: list[Failure | Chunk] = [*self.failures, *self.pending]
        for rows in absent:
            mask[rows.start - self.start : rows.stop - self.start] = False
        return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run gave. Row i of ``values`` belongs to row i of the input; ``ok`` alone tells if it has an answer."""

    outputs: Values | None
    ok: Array
    """Shape (rows,), bool."""

    failures: tuple[Failure, ...]
    """Sorted by row."""

    pending: tuple[Chunk, ...]
    """Rows never answered, because the run was stopped; sorted."""

    stats: Statistics

    @property
    def values(self) -> Any:
        """One array, or a dict of arrays where the codec has several outputs; None when nothing succeeded.

        Failed and pending rows hold NaN, 0, False or ``""``.
        """
        return unwrapped(self.outputs)

    def __repr__(self) -> str:
        ok, pending = int(self.ok.sum()), sum(len(chunk) for chunk in self.pending)
        return f"<Result rows={len(self.ok)} ok={ok} failed={len(self.ok) - ok - pending} pending={pending}>"


def unwrapped(outputs: Values | None) -> Any:
    """The only array of a mapping with one entry, else the mapping as a dict."""
    if outputs is None:
        return None
    return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)

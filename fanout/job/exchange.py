"""Requests and their answers for people, redacted and abbreviated.

`ExchangeCapture` keeps the first of a check (``fanout check --show``); `recorded_row` returns those of a recording that
hold one row, abbreviated around that row (``fanout show``).
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from fanout.cassettes import CassetteReader, ObservedTransport, is_kept_header
from fanout.errors import ConfigError, TransportError
from fanout.job.report import SCHEMA_VERSION
from fanout.rows import RowSet
from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from fanout.cassettes import Interaction
    from fanout.transport import Request, Transport

_TENSORS_BEGIN = "inference-header-content-length"
_PLAIN_HEADERS = frozenset(
    {"accept", "accept-encoding", "content-encoding", "content-type", _TENSORS_BEGIN, "user-agent"}
)
"""Header fields of requests whose values are shown; any other may be a credential."""

_SCHEME = re.compile(r"(Bearer|Basic|Token|Key) (?=\S)", re.IGNORECASE)
_LIST_ITEMS = 3
_TABLE_KEYS = 30
_TEXT_CHARACTERS = 300
_BODY_CHARACTERS = 2000
# Parsing a larger body would only cost time and memory: a beginning of it is shown.
_PARSED_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and its answer. Secrets are replaced, long lists and texts are abbreviated."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: Any = field(repr=False)
    """The body as JSON; a text if it is none."""

    status: int | None = None
    """None if no whole answer came; ``error`` gives the reason."""

    answer_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Those by which fanout decides."""

    answer: Any = field(default=None, repr=False)
    error: str = ""
    seconds: float = 0.0
    response: Response | None = field(default=None, repr=False)
    """The whole answer, with secrets, for the codec alone."""

    def as_dict(self) -> dict[str, Any]:
        shown = asdict(replace(self, response=None))
        del shown["response"]
        return shown


class ExchangeCapture:
    """Keeps the first request with rows and its answer: ``Client(..., transport=capture)``.

    Args:
        show_url: returns a URL without its secrets.
    """

    def __init__(self, show_url: Callable[[str], str]) -> None:
        self.exchange: Exchange | None = None
        """None before the first answer. Without a request with rows, the last one for metadata."""

        self._show_url = show_url

    def wrap(self, transport: Transport) -> Transport:
        """A transport that sends through ``transport`` and shows this object the first exchange."""
        return ObservedTransport(self, transport)

    def note(self, request: Request, started: float, outcome: Response | TransportError) -> None:
        """Keep an exchange that is wanted, without its secrets."""
        # Only the first is kept: retries and the parts of a split chunk would show the same rows again.
        if self.exchange is not None and (self.exchange.method != "GET" or request.method == "GET"):
            return
        redact = request.redact
        answer: dict[str, Any] = {}
        if isinstance(outcome, TransportError):
            answer["error"] = _redacted(f"{type(outcome).__name__}: {outcome}", redact)
        else:
            # Other fields may set cookies, or quote the request.
            kept = {name: value for name, value in outcome.headers.items() if is_kept_header(name)}
            answer["status"] = outcome.status
            answer["answer_headers"] = {name.lower(): _redacted(value, redact) for name, value in kept.items()}
            answer["answer"] = shown_body(redact(bytes(outcome.body)), outcome.headers)
            # A copy, because the transport may use its buffer for the next answer.
            answer["response"] = Response(status=outcome.status, headers=outcome.headers, body=bytes(outcome.body))
        self.exchange = Exchange(
            method=request.method,
            url=self._show_url(request.url),
            headers={name.lower(): _shown_header(name, value) for name, value in request.headers.items()},
            body=shown_body(redact(request.joined()), request.headers),
            seconds=asyncio.get_running_loop().time() - started,
            **answer,
        )


def abbreviated(value: Any, item: tuple[int, int] | None = None) -> Any:
    """Return a JSON value with the first items of its lists, and the beginnings of its texts.

    With ``item`` (position, length), a list of that length has the item at that position in place of the first ones.
    Where all items say their ``index``, it is the one that says the position.
    """
    if isinstance(value, str):
        return _cut(value, _TEXT_CHARACTERS)
    if isinstance(value, list):
        if item is not None and len(value) == item[1]:
            return _around(value, item[0])
        more = len(value) - _LIST_ITEMS
        rest = [f"... {more:,} more"] if more > 0 else []
        return [*(abbreviated(one, item) for one in value[:_LIST_ITEMS]), *rest]
    if isinstance(value, dict):
        first = list(value.items())[:_TABLE_KEYS]
        shown = {_cut(key, _TEXT_CHARACTERS): abbreviated(inner, item) for key, inner in first}
        more = len(value) - _TABLE_KEYS
        return shown | ({"...": f"{more:,} more"} if more > 0 else {})
    return value


def _around(values: list[Any], place: int) -> list[Any]:
    """Return one item of a list, and the number of those before and after it."""
    # Rerankers sort their items, so that the place in the list is not that of the row.
    by_index = {one["index"]: one for one in values if isinstance(one, dict) and isinstance(one.get("index"), int)}
    shown = by_index[place] if len(by_index) == len(values) and place in by_index else values[place]
    before, after = place, len(values) - place - 1
    return [
        *([f"... {before:,} more"] if before else []),
        abbreviated(shown),
        *([f"... {after:,} more"] if after else []),
    ]


def shown_body(body: bytes, headers: Mapping[str, str], shorten: Callable[[Any], Any] = abbreviated) -> Any:
    """Return a body as a JSON value that is made short; text, or the number of bytes, if it is not JSON."""
    folded = {name.lower(): value for name, value in headers.items()}
    # The body of an OIP request in binary is JSON, whose length this field states, with the bytes of the tensors
    # behind.
    begin = folded.get(_TENSORS_BEGIN, "")
    if begin.isdecimal() and int(begin) < len(body):
        return {**_as_table(body[: int(begin)]), "...": f"and {len(body) - int(begin):,} bytes of tensors"}
    if len(body) <= _PARSED_BYTES:
        try:
            return shorten(orjson.loads(body))
        except orjson.JSONDecodeError:
            pass
    try:
        # A character of UTF-8 has at most four bytes, and the last one may be cut in two.
        text = body[: 4 * _BODY_CHARACTERS].decode("utf-8", "strict" if len(body) < _BODY_CHARACTERS else "ignore")
    except UnicodeDecodeError:
        return f"{len(body):,} bytes of {folded.get('content-type', 'an unknown type')}"
    return _cut(text, _BODY_CHARACTERS)


def _as_table(head: bytes) -> dict[str, Any]:
    try:
        value = abbreviated(orjson.loads(head))
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"


def _shown_header(name: str, value: str) -> str:
    if name.lower() in _PLAIN_HEADERS:
        return value
    # The scheme shows the commonest mistake, a token without "Bearer" before it.
    scheme = _SCHEME.match(value)
    return f"{scheme[0] if scheme else ''}***"


def _redacted(text: str, redact: Callable[[bytes], bytes]) -> str:
    return redact(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedExchange:
    """One exchange of a recording.

    Attributes:
        number: its place in the recording, from 1 on.
        rows: start and stop of each unbroken range of its rows.
        place: position of the row in question among them.
        n_rows: their number.
        at: seconds from the first exchange of the recording to this one.
    """

    number: int
    rows: tuple[tuple[int, int], ...]
    place: int
    n_rows: int
    at: float
    exchange: Exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRow:
    """All exchanges of a recording that hold one row, in their order.

    Attributes:
        total: exchanges of the recording.
    """

    recording: str
    row: int
    total: int
    exchanges: tuple[RecordedExchange, ...]

    def as_dict(self) -> dict[str, Any]:
        exchanges = []
        for one in self.exchanges:
            known = {"number": one.number, "rows": one.rows, "place": one.place, "at": one.at}
            exchanges.append(known | one.exchange.as_dict())
        return {"schema_version": SCHEMA_VERSION, "recording": self.recording, "row": self.row, "exchanges": exchanges}


def recorded_row(recording: Path, row: int) -> RecordedRow:
    """Return the exchanges of a recording that hold the row of that number, counted from 0.

    Raises:
        InputError: the recording cannot be read, or is none.
        ConfigError: no exchange holds that row.
    """
    cassette = CassetteReader(recording)
    exchanges = tuple(_exchanges(cassette, row))
    if not exchanges:
        known = RowSet(bounds for one in cassette.interactions for bounds in one.rows)
        listed = f"the rows {known.listed()}" if known else "no rows"
        causes = "it may have been answered by the cache or with an equal row, or in another run"
        raise ConfigError(f"row {row} is in no exchange of {recording}, which holds {listed}; {causes}", key="row")
    total = len(cassette.interactions)
    return RecordedRow(recording=str(recording), row=row, total=total, exchanges=exchanges)


def _exchanges(cassette: CassetteReader, row: int) -> Iterator[RecordedExchange]:
    for number, one in enumerate(cassette.interactions, 1):
        if (place := one.place_of(row)) is not None:
            exchange = _exchange(cassette, one, place)
            yield RecordedExchange(
                number=number, rows=one.rows, place=place, n_rows=one.n_rows, at=one.at, exchange=exchange
            )


def _exchange(cassette: CassetteReader, one: Interaction, place: int) -> Exchange:
    shorten = partial(abbreviated, item=(place, one.n_rows))
    answered = one.status is not None
    return Exchange(
        method=one.method,
        url=one.path,
        headers={},
        body=shown_body(cassette.body(one.sent), {}, shorten),
        status=one.status,
        answer_headers=one.headers,
        answer=shown_body(cassette.body(one.got), one.headers, shorten) if answered else None,
        error=f"{one.error}: {one.text}" if one.error else "",
        seconds=one.seconds,
    )

"""The faults by name: their parameters, descriptions and actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fanout.errors import ConfigError
from fanout.faults import actions
from fanout.faults import corruption as corrupt
from fanout.options import did_you_mean
from fanout.serving.exchange import JSON_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fanout.faults.actions import FaultAction, FaultyConnection, Listener
    from fanout.faults.corruption import Corruption
    from fanout.serving.exchange import ServerRequest, ServerResponse

# A captive portal answers every request with its page and a status of success.
_HTML = b"<!doctype html><html><body><h1>Sign in to the network</h1></body></html>"


# Seconds: 31 years. Dates that far off can still be written.
_LONGEST = 1e9

# Bytes that a server can be expected to hold.
_LARGEST = 2**30


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault with its parameter."""

    name: str
    act: FaultAction
    value: Any = None
    early: bool = False
    """It happens before the request's body is read, when the rows are not known yet."""

    in_json: bool = False
    """It needs a response in JSON."""

    async def strike(
        self,
        connection: FaultyConnection,
        request: ServerRequest,
        answer: Callable[[ServerRequest], Awaitable[ServerResponse]],
        listener: Listener,
    ) -> None:
        """Act on an exchange. ``answer`` gives the response of a correct server."""
        # A fault that changes values has to find them in JSON, whatever form the request asked for.
        response = await answer(corrupt.in_json(request) if self.in_json else request)
        await self.act(actions.FaultyExchange(connection, request, response, listener, self.value))


@dataclass(frozen=True, slots=True)
class _Kind:
    text: str
    act: FaultAction
    default: str | None = None
    read: Callable[[str], Any] = str
    early: bool = False
    in_json: bool = False


def parse_fault(spec: str | int) -> Fault:
    """The fault of that name; ``"name:value"`` sets its parameter, a number is a status.

    Raises `ConfigError`, with the nearest name, for one that is not known.
    """
    name, colon, given = str(spec).partition(":")
    kind = _KINDS.get(name)
    # 1xx and 2xx are no faults: a client would take them for progress, or for an answer.
    if kind is None and name.isdecimal() and 300 <= int(name) <= 599 and not colon:
        return Fault(name, actions.status, int(name))
    if kind is None:
        raise ConfigError(
            f"there is no fault {name!r}{did_you_mean(name.lower(), _KINDS)}; names are {', '.join(FAULTS)}",
            key="faults",
        )
    if colon and kind.default is None:
        raise ConfigError(f"fault {name!r} has no parameter, so {str(spec)!r} makes no sense", key="faults")
    try:
        value = None if kind.default is None else kind.read(given if colon else kind.default)
    except ValueError:
        raise ConfigError(f"fault {name!r} cannot have the parameter {given!r}", key="faults") from None
    return Fault(name, kind.act, value, kind.early, kind.in_json)


def parse_faults(text: str) -> dict[str, float]:
    """``"503=0.1,drip:0.05=0.02"`` as probabilities by fault. Raises `ConfigError` for a text that cannot be parsed."""
    faults: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = item.rpartition("=")
        try:
            faults[name.strip()] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"{item!r} is not NAME=PROBABILITY, for instance 503=0.1", key="faults")
    probabilities(faults)
    return faults


def probabilities(faults: Mapping[str, float]) -> dict[Fault, float]:
    """The faults by name with their probabilities, checked. Raises `ConfigError`."""
    parsed = {parse_fault(spec): probability for spec, probability in faults.items()}
    for fault, probability in parsed.items():
        if not 0 <= probability <= 1:
            raise ConfigError(f"fault {fault.name!r}: a probability is 0 to 1, not {probability!r}", key="faults")
        if fault.early:
            raise ConfigError(f"fault {fault.name!r} comes before the request is known: script it", key="faults")
    # Sums of decimal fractions are inexact.
    if sum(parsed.values()) > 1 + 1e-9:
        raise ConfigError(
            f"the probabilities of all faults add up to {sum(parsed.values()):g}: at most 1", key="faults"
        )
    return parsed


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= _LONGEST:  # NaN is not, either
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= _LARGEST:
        raise ValueError(text)
    return value


def _status(text: str) -> int:
    value = int(text)
    if not 200 <= value <= 599:
        raise ValueError(text)
    return value


def _field(text: str) -> str:
    text.encode("latin-1")  # UnicodeEncodeError is a ValueError
    if any(char in "\r\n" for char in text):
        raise ValueError(text)
    return text


def _corrupting(change: Corruption, text: str, *, in_json: bool = False) -> _Kind:
    return _Kind(text, actions.corrupting(change), in_json=in_json)


_KINDS: dict[str, _Kind] = {
    "refused": _Kind("all connections are reset, new ones refused for SECONDS (0.3)", actions.refused, "0.3", _seconds),
    "silence": _Kind("the request is read and never answered", actions.silence),
    "slow": _Kind("the right answer comes after SECONDS (1)", actions.slow, "1", _seconds),
    "drip": _Kind("the body comes byte by byte, one in SECONDS (0.1)", actions.drip, "0.1", _seconds),
    "reset-before-headers": _Kind("a RST in place of an answer", actions.reset_before_headers),
    "close-before-headers": _Kind("a FIN in place of an answer", actions.close_before_headers),
    "reset-mid-body": _Kind("half of the body, then a RST", actions.reset_mid_body),
    "short-body": _Kind("half of the body that Content-Length announces, then a FIN", actions.short_body),
    "chunked-without-end": _Kind("a chunked body without its last chunk, then a FIN", actions.chunked_without_end),
    "close-delimited-cut": _Kind(
        "half of a body that only the end of the connection ends", actions.close_delimited_cut
    ),
    "small-content-length": _Kind("twice as many bytes as Content-Length announces", actions.small_content_length),
    "two-content-lengths": _Kind("two Content-Length fields that disagree", actions.two_content_lengths),
    "length-and-chunked": _Kind("a chunked body with a Content-Length as well", actions.length_and_chunked),
    "xchunked": _Kind("a chunked body whose encoding is called xchunked, then a FIN", actions.xchunked),
    "chunked-gzip": _Kind("a body labelled chunked and gzip that is neither, then a FIN", actions.chunked_gzip),
    "partial": _Kind("the right answer with status 206", actions.partial),
    "unsolicited": _Kind("the right answer, and another that no request asked for", actions.unsolicited),
    "answered-twice": _Kind(
        "the right answer, and again after SECONDS (0.001)", actions.answered_twice, "0.001", _seconds
    ),
    "408-idle": _Kind("the right answer, then a 408 on the idle connection, then a FIN", actions.timeout_when_idle),
    "close-on-reuse": _Kind("the right answer; the next request on its connection gets a FIN", actions.close_on_reuse),
    "close-after-answer": _Kind("the right answer, then a FIN that was not announced", actions.close_after_answer),
    "gzip-cut": _corrupting(
        corrupt.zipped(lambda data: data[: len(data) // 2]), "half of a gzip body, framed as whole"
    ),
    "gzip-no-crc": _corrupting(
        corrupt.zipped(lambda data: data[:-8]), "a gzip body without its check sum, framed as whole"
    ),
    "gzip-bad-crc": _corrupting(corrupt.zipped(corrupt.wrong_crc), "a gzip body with a wrong check sum"),
    "gzip-not": _corrupting(corrupt.labelled_gzip, "a plain body labelled gzip"),
    "gzip-bomb": _Kind("a gzip body of BYTES (67108864) zeros", actions.gzip_bomb, "67108864", _count),
    "endless": _Kind("a body without end", actions.endless),
    "huge-header": _Kind("a header field of BYTES (100000)", actions.huge_header, "100000", _count),
    "truncated-json": _corrupting(corrupt.first_half, "half of the answer, framed as whole"),
    "html": _corrupting(corrupt.other_body(_HTML, "text/html"), "a web page with status 200"),
    "200-error": _corrupting(
        corrupt.other_body(b'{"error":{"message":"overloaded","type":"server_error","code":null}}', JSON_TYPE),
        "an error message with status 200",
    ),
    "nan": _corrupting(corrupt.with_value("NaN"), "one value is NaN", in_json=True),
    "infinity": _corrupting(corrupt.with_value("Infinity"), "one value is Infinity", in_json=True),
    "1e999": _corrupting(corrupt.with_value("1e999"), "one value is 1e999", in_json=True),
    "row-missing": _corrupting(corrupt.with_rows(lambda rows: rows[1:]), "one row too few", in_json=True),
    "row-extra": _corrupting(corrupt.with_rows(lambda rows: [rows[0], *rows]), "one row too many", in_json=True),
    "one-row": _corrupting(corrupt.with_rows(lambda rows: rows[:1]), "one row for any number of rows", in_json=True),
    "permuted-ids": _corrupting(
        corrupt.with_rows(corrupt.permuted_ids), "numbered rows in another order", in_json=True
    ),
    "duplicate-ids": _corrupting(
        corrupt.with_rows(corrupt.duplicate_ids), "two rows with the same number", in_json=True
    ),
    "null": _corrupting(corrupt.with_value("null"), "one value is null", in_json=True),
    "string": _corrupting(corrupt.with_value('"much"'), "one value is a text", in_json=True),
    "ragged": _corrupting(corrupt.with_rows(corrupt.ragged), "one row is longer than the others", in_json=True),
    "huge-integer": _corrupting(corrupt.with_value("9007199254740993"), "one value is 2**53 + 1", in_json=True),
    "429-retry-after": _Kind("429 with a Retry-After of TEXT (1)", actions.retry_after, "1", _field),
    "429-date": _Kind("429 with a date SECONDS (1) off, by a wrong clock", actions.retry_date, "1", _seconds),
    "redirect": _Kind("307 to URL (http://127.0.0.1:9/)", actions.redirect, "http://127.0.0.1:9/", _field),
    "413-early": _Kind("413 before the body is read, then a FIN", actions.early_413, early=True),
    "echo": _Kind("STATUS (500) with all header fields of the request in its text", actions.echo, "500", _status),
}

# The names of all faults with their descriptions. A capital word is a parameter: ``"drip:0.01"``.
FAULTS: Mapping[str, str] = {name: kind.text for name, kind in _KINDS.items()} | {
    "503": "that status; so does any other from 300 to 599"
}

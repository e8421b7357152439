"""The faults by name: their parameters, descriptions and actions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fanout.errors import ConfigError
from fanout.faults import actions
from fanout.faults.actions import answering, chunk, refusal, sending
from fanout.options import did_you_mean
from fanout.serving.exchange import JSON_TYPE, ServerResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fanout.faults.actions import Corruption, FaultAction, FaultyConnection
    from fanout.serving.exchange import ServerRequest

# A captive portal answers every request with its page and a status of success.
_HTML = b"<!doctype html><html><body><h1>Sign in to the network</h1></body></html>"
_ERROR = b'{"error":{"message":"overloaded","type":"server_error","code":null}}'
_LATE = ServerResponse(status=408, headers={"Connection": "close"}, body=b"").encoded()

# Seconds: 31 years. Dates that far off can still be written.
_LONGEST = 1e9

# Bytes that a server can be expected to hold.
_LARGEST = 2**30


@dataclass(frozen=True, slots=True)
class _Kind:
    text: str
    act: FaultAction
    default: str | None = None
    read: Callable[[str], Any] = str
    early: bool = False
    in_json: bool = False
    """It needs a response in JSON."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault with its parameter."""

    name: str
    kind: _Kind
    value: Any = None

    @property
    def early(self) -> bool:
        """It happens before the request's body is read, when the rows are not known yet."""
        return self.kind.early

    async def strike(
        self,
        connection: FaultyConnection,
        request: ServerRequest,
        answer: Callable[[ServerRequest], Awaitable[ServerResponse]],
        refuse: Callable[[float], Awaitable[None]],
    ) -> None:
        """Act on an exchange. ``answer`` gives the response of a correct server; ``refuse``: see `FaultyExchange`."""
        # A fault that changes values has to find them in JSON, whatever form the request asked for.
        response = await answer(actions.in_json(request) if self.kind.in_json else request)
        await self.kind.act(actions.FaultyExchange(connection, request, response, refuse, self.value))


def parse_fault(spec: str | int) -> Fault:
    """The fault of that name; ``"name:value"`` sets its parameter, a number is a status.

    Raises `ConfigError`, with the nearest name, for one that is not known.
    """
    name, colon, given = str(spec).partition(":")
    kind = _KINDS.get(name)
    # 1xx and 2xx are no faults: a client would take them for progress, or for an answer.
    if kind is None and name.isdecimal() and 300 <= int(name) <= 599 and not colon:
        return Fault(name, _STATUS, int(name))
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
    return Fault(name, kind, value)


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


def _corrupting(text: str, change: Corruption, *, in_json: bool = False) -> _Kind:
    # Errors stay as they are: no client trusts their content.
    act = answering(lambda one: change(one.response) if one.response.status == 200 else one.response)
    return _Kind(text, act, in_json=in_json)


def _with_rows(text: str, edit: Callable[[list[Any]], list[Any]]) -> _Kind:
    return _corrupting(text, actions.with_rows(edit), in_json=True)


def _with_value(text: str, literal: str) -> _Kind:
    return _corrupting(text, actions.with_value(literal), in_json=True)


_STATUS = _Kind("", answering(lambda one: refusal(one.value)))
_KINDS: dict[str, _Kind] = {
    "refused": _Kind(
        "all connections are reset, new ones refused for SECONDS (0.3)", lambda one: one.refuse(one.value), "0.3",
        _seconds,
    ),
    "silence": _Kind("the request is read and never answered", actions.silence),
    "slow": _Kind("the right answer comes after SECONDS (1)", actions.slow, "1", _seconds),
    "drip": _Kind("the body comes byte by byte, one in SECONDS (0.1)", actions.drip, "0.1", _seconds),
    "reset-before-headers": _Kind("a RST in place of an answer", sending(lambda _: [], "reset")),
    "close-before-headers": _Kind("a FIN in place of an answer", sending(lambda _: [], "close")),
    "reset-mid-body": _Kind("half of the body, then a RST", sending(lambda one: [one.without_half()], "reset")),
    "short-body": _Kind(
        "half of the body that Content-Length announces, then a FIN", sending(lambda one: [one.without_half()], "close")
    ),
    "chunked-without-end": _Kind(
        "a chunked body without its last chunk, then a FIN",
        sending(lambda one: [one.head("Transfer-Encoding: chunked"), chunk(one.body)], "close"),
    ),
    "close-delimited-cut": _Kind(
        "half of a body that only the end of the connection ends",
        sending(lambda one: [one.head("Connection: close"), actions.first_half(one.response).body], "close"),
    ),
    "small-content-length": _Kind(
        "twice as many bytes as Content-Length announces",
        sending(lambda one: [one.head(f"Content-Length: {len(one.body) // 2}") + one.body]),
    ),
    "two-content-lengths": _Kind(
        "two Content-Length fields that disagree",
        sending(lambda one: [one.head(*(f"Content-Length: {len(one.body) // n}" for n in (2, 1))), one.body]),
    ),
    "length-and-chunked": _Kind(
        "a chunked body with a Content-Length as well",
        sending(
            lambda one: [
                one.head(f"Content-Length: {len(one.body)}", "Transfer-Encoding: chunked") + chunk(one.body, last=True)
            ]
        ),
    ),
    "xchunked": _Kind(
        "a chunked body whose encoding is called xchunked, then a FIN",
        sending(lambda one: [one.head("Transfer-Encoding: xchunked"), chunk(one.body, last=True)], "close"),
    ),
    "chunked-gzip": _Kind(
        "a body labelled chunked and gzip that is neither, then a FIN",
        sending(lambda one: [one.head("Transfer-Encoding: chunked, gzip"), one.body], "close"),
    ),
    "partial": _Kind("the right answer with status 206", answering(lambda one: replace(one.response, status=206))),
    # In one piece: no client can distinguish bytes that come after its next request from the response to that.
    "unsolicited": _Kind(
        "the right answer, and another that no request asked for", sending(lambda one: [one.response.encoded() * 2])
    ),
    "answered-twice": _Kind(
        "the right answer, and again after SECONDS (0.001)", actions.answered_twice, "0.001", _seconds
    ),
    "408-idle": _Kind(
        "the right answer, then a 408 on the idle connection, then a FIN",
        sending(lambda one: [one.response.encoded() + _LATE], "close"),
    ),
    "close-on-reuse": _Kind("the right answer; the next request on its connection gets a FIN", actions.close_on_reuse),
    "close-after-answer": _Kind(
        "the right answer, then a FIN that was not announced", sending(lambda one: [one.response.encoded()], "close")
    ),
    "gzip-cut": _corrupting(
        "half of a gzip body, framed as whole", actions.zipped(lambda data: data[: len(data) // 2])
    ),
    # A gzip body ends with its CRC-32 and its length, four bytes each.
    "gzip-no-crc": _corrupting(
        "a gzip body without its check sum, framed as whole", actions.zipped(lambda data: data[:-8])
    ),
    "gzip-bad-crc": _corrupting(
        "a gzip body with a wrong check sum",
        actions.zipped(lambda data: data[:-8] + bytes([data[-8] ^ 0xFF]) + data[-7:]),
    ),
    "gzip-not": _corrupting("a plain body labelled gzip", actions.labelled_gzip),
    "gzip-bomb": _Kind(
        "a gzip body of BYTES (67108864) zeros",
        answering(lambda one: actions.labelled_gzip(replace(one.response, body=actions.zeros_in_gzip(one.value)))),
        "67108864", _count,
    ),
    "endless": _Kind("a body without end", actions.endless),
    "huge-header": _Kind(
        "a header field of BYTES (100000)",
        sending(lambda one: [one.head(f"X-Long: {'x' * one.value}", f"Content-Length: {len(one.body)}"), one.body]),
        "100000", _count,
    ),
    "truncated-json": _corrupting("half of the answer, framed as whole", actions.first_half),
    "html": _corrupting("a web page with status 200", actions.other_body(_HTML, "text/html")),
    "200-error": _corrupting("an error message with status 200", actions.other_body(_ERROR, JSON_TYPE)),
    "nan": _with_value("one value is NaN", "NaN"),
    "infinity": _with_value("one value is Infinity", "Infinity"),
    "1e999": _with_value("one value is 1e999", "1e999"),
    "row-missing": _with_rows("one row too few", lambda rows: rows[1:]),
    "row-extra": _with_rows("one row too many", lambda rows: [rows[0], *rows]),
    "one-row": _with_rows("one row for any number of rows", lambda rows: rows[:1]),
    "permuted-ids": _with_rows("numbered rows in another order", actions.permuted_ids),
    "duplicate-ids": _with_rows("two rows with the same number", actions.duplicate_ids),
    "null": _with_value("one value is null", "null"),
    "string": _with_value("one value is a text", '"much"'),
    "ragged": _with_rows("one row is longer than the others", actions.ragged),
    "huge-integer": _with_value("one value is 2**53 + 1", "9007199254740993"),
    "429-retry-after": _Kind(
        "429 with a Retry-After of TEXT (1)", answering(lambda one: refusal(429, {"Retry-After": one.value})), "1",
        _field,
    ),
    "429-date": _Kind("429 with a date SECONDS (1) off, by a wrong clock", actions.retry_date, "1", _seconds),
    "redirect": _Kind(
        "307 to URL (http://127.0.0.1:9/)", answering(lambda one: refusal(307, {"Location": one.value})),
        "http://127.0.0.1:9/", _field,
    ),
    "413-early": _Kind("413 before the body is read, then a FIN", actions.early_413, early=True),
    "echo": _Kind("STATUS (500) with all header fields of the request in its text", actions.echo, "500", _status),
}  # fmt: skip

# The names of all faults with their descriptions. A capital word is a parameter: ``"drip:0.01"``.
FAULTS: Mapping[str, str] = {name: kind.text for name, kind in _KINDS.items()} | {
    "503": "that status; so does any other from 300 to 599"
}

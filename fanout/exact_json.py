"""Parse JSON: integers exactly as written, and large documents in slices.

orjson rounds an integer beyond 64 bits to a float without an error; the parsers here keep every integer. A parser also
holds the interpreter lock until it returns, on a helper thread too, so that one call for a large document delays the
event loop. `in_slices` therefore hands a parser no more than a slice of some hundred KiB at a time.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout._lazy import pattern

if TYPE_CHECKING:
    from collections.abc import Callable

TOO_DEEP = "nested too deep"

LIGHT = 512 * 2**10
"""Bytes up to which a document is parsed at once, without an estimate of its weight."""

SLICE = 256 * 2**10
"""Bytes of one slice of a larger document: the worst text of this size takes some ten milliseconds to parse."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Each digit as 0, and each byte that may not stand before an integer as itself.
_SHAPES = bytes(ord("0") if 48 <= byte < 58 else byte if byte in b'.-"' else ord(" ") for byte in range(256))
# Digits that an integer beyond 64 bits has at least.
_SPAN = 19
# The shapes of integers beyond 64 bits; some within them have these too.
_LARGE = (b" " + b"0" * 20, b"-" + b"0" * 19)
# Bytes of memory that an object, a list, a number and a text take beside their content. A text has two quotes.
_WEIGHTS = ((b"{", 232), (b"[", 88), (b",", 34), (b'"', 25))
# Bytes of memory that the objects of one document may take.
_HEAVIEST = 128 * 2**20
_SPARE = 32 * 2**20
_DEEPEST = 64
_QUOTE, _OPENING, _CLOSING, _COMMA = 1, 2, 3, 4
_KINDS = bytes(
    {34: _QUOTE, 91: _OPENING, 123: _OPENING, 93: _CLOSING, 125: _CLOSING, 44: _COMMA}.get(byte, 0)
    for byte in range(256)
)
_STEPS = np.array([0, 0, 1, -1, 0], np.int64)
_ESCAPE = pattern(rb"\\.", re.DOTALL)
_SPACE = pattern(rb"[ \t\n\r]*")
_SCALAR = pattern(rb"[^][{}\", \t\n\r]+")
_LONGEST_CHARACTER = len(rb"\ud83d\ude00")


def without_bom(text: bytes) -> bytes:
    """``text`` without a byte order mark, which some programs write before JSON."""
    if not text.startswith(_BYTE_ORDER_MARK):
        return text  # `removeprefix` would copy a bytearray here
    return text[len(_BYTE_ORDER_MARK) :]


def loads(text: bytes) -> Any:
    """Parse ``text``, of any size. Raises `orjson.JSONDecodeError` if it is not JSON or is nested too deep."""
    text = without_bom(text)
    return in_slices(text, parser_for(text))


def parser_for(text: bytes) -> Callable[[bytes], Any]:
    """Return the quickest function that parses parts of ``text`` and keeps every integer."""
    return _exactly if _has_long_numbers(text) else orjson.loads


def slowly(text: bytes, number: Callable[[str], Any] = float) -> Any:
    """Parse JSON that orjson accepts, and call ``number`` with the text of each number that is no integer.

    Raises `orjson.JSONDecodeError` if it is nested too deep for this parser.
    """
    try:
        return json.loads(text.decode(), parse_float=number)
    except RecursionError:
        raise orjson.JSONDecodeError(TOO_DEEP, "", 0) from None


def may_hold_large_integers(text: bytes) -> bool:
    """False only if no integer in ``text`` is beyond 64 bits, neither among its numbers nor within its strings."""
    if not _has_long_numbers(text):
        return False
    shapes = b" " + text.translate(_SHAPES)
    return any(large in shapes for large in _LARGE)


def too_heavy(text: bytes) -> str:
    """Return why ``text`` must not be parsed as a whole; an empty string if it may be.

    Parsed JSON takes up to 75 times its bytes. The estimate counts the characters between values, in texts too.
    """
    if len(text) <= LIGHT:
        return ""
    limit = min(15 * len(text) + _SPARE, _HEAVIEST)
    weight = 0
    for start in range(0, len(text), 2**20):  # `count` holds the interpreter lock, so it gets parts too
        weight += sum(each * text.count(sign, start, start + 2**20) for sign, each in _WEIGHTS)
        if weight > limit:
            return (
                f"has so many values in its {len(text):,} bytes that they would take more than {limit // 2**20} MiB of "
                "memory: ask for fewer rows at once (chunks.rows)"
            )
    return ""


def in_slices(text: bytes, parse: Callable[[bytes], Any]) -> Any:
    """Parse a document of any size with calls of ``parse`` for at most `LIGHT` bytes each.

    Raises `orjson.JSONDecodeError` if it is not JSON, and whatever ``parse`` raises.
    """
    if len(text) <= LIGHT:
        return parse(text)
    value, end = _Document(text, parse).value(space_end(text, 0), 0)
    if space_end(text, end) < len(text):
        raise _no_json(end)
    return value


def last_comma(text: bytes) -> tuple[int, bool]:
    """Find the last place in ``text`` at which its container can be cut.

    Args:
        text: begins between two members of a list or an object, and may end anywhere.

    Returns:
        The place of the comma behind the last whole member, and False; the place of the container's closing bracket,
        and True; or -1 and False where not even the first member ends.
    """
    if b"\\" in text:
        text = _ESCAPE.sub(b"__", text)  # so that each quote that is left opens or closes a text
    kinds = np.frombuffer(text.translate(_KINDS), np.uint8)
    places = np.flatnonzero(kinds)
    kinds = kinds[places]
    # Between an odd quote and the next one lies a text.
    kinds = np.where(np.cumsum(kinds == _QUOTE) % 2, 0, kinds)  # 0 for whatever a text holds
    depth = np.cumsum(_STEPS[kinds])
    closed = np.flatnonzero(depth < 0)
    if closed.size:
        return int(places[closed[0]]), True
    commas = np.flatnonzero((kinds == _COMMA) & (depth == 0))
    return (int(places[commas[-1]]) if commas.size else -1), False


def space_end(text: bytes, at: int) -> int:
    """The place of the first character from ``at`` on that is no white space of JSON."""
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


class _Document:
    """Parses the long values of a document member by member."""

    def __init__(self, text: bytes, parse: Callable[[bytes], Any]) -> None:
        self._text = text
        self._parse = parse

    def value(self, at: int, depth: int) -> tuple[Any, int]:
        """The value that begins at ``at``, and the place behind it."""
        first = self._text[at : at + 1]
        if first == b'"':
            return self._string(at)
        if first == b"[":
            items: list[Any] = []
            return items, self._container(at, depth, items.extend, items.append)
        if first == b"{":
            fields: dict[str, Any] = {}
            return fields, self._container(at, depth, fields.update, lambda field: fields.update([field]))
        scalar = _SCALAR.match(self._text, at, at + SLICE)  # short, but behind a long name
        if scalar is None:
            raise _no_json(at)
        return self._parse(scalar[0]), scalar.end()

    def _container(self, start: int, depth: int, extend: Callable[[Any], None], append: Callable[[Any], None]) -> int:
        """Add all members to a list or an object. Returns the place behind its closing bracket."""
        if depth >= _DEEPEST:
            raise orjson.JSONDecodeError(TOO_DEEP, "", start)
        opening, closing = (b"[", b"]") if self._text[start : start + 1] == b"[" else (b"{", b"}")
        at, ended = start + 1, False
        while not ended:
            members = bytes(self._text[at : at + SLICE])
            length, ended = last_comma(members)
            # Most often whole members end within the slice, and one call parses all of them.
            if length >= 0:
                part = self._parse(b"".join((opening, members[:length], closing)))
                if not part and not (ended and at == start + 1):  # a comma without a value behind or before it
                    raise _no_json(at)
                extend(part)
                at += length
            else:
                member, at = self._member(space_end(self._text, at), depth, named=opening == b"{")
                append(member)
                at = space_end(self._text, at)
                ended = self._text[at : at + 1] == closing
            if self._text[at : at + 1] != (closing if ended else b","):
                raise _no_json(at)
            at += 1
        return at

    def _member(self, at: int, depth: int, *, named: bool) -> tuple[Any, int]:
        """A member that is longer than a slice: a value, or a pair of name and value."""
        if not named:
            return self.value(at, depth + 1)
        if self._text[at : at + 1] != b'"':
            raise _no_json(at)
        name, at = self._string(at)
        at = space_end(self._text, at)
        if self._text[at : at + 1] != b":":
            raise _no_json(at)
        value, at = self.value(space_end(self._text, at + 1), depth + 1)
        return (name, value), at

    def _string(self, at: int) -> tuple[str, int]:
        """The text that begins at ``at``, decoded piece by piece, and the place behind it."""
        pieces: list[str] = []
        at += 1
        while True:
            window = bytes(self._text[at : at + SLICE])
            end = (_ESCAPE.sub(b"__", window) if b"\\" in window else window).find(b'"')
            if end >= 0:
                # Never with the caller's parser: some of them accept half of a surrogate pair at a cut.
                pieces.append(orjson.loads(b'"%b"' % window[:end]))
                return "".join(pieces), at + end + 1
            piece, length = _whole_characters(window)
            pieces.append(piece)
            at += length


def _whole_characters(window: bytes) -> tuple[str, int]:
    """The text of ``window`` without the character that its end cuts in two, and the number of its bytes."""
    for length in range(len(window), max(0, len(window) - _LONGEST_CHARACTER), -1):
        try:
            return orjson.loads(b'"%b"' % window[:length]), length
        except orjson.JSONDecodeError:
            continue
    raise _no_json(0)


def _no_json(at: int) -> orjson.JSONDecodeError:
    return orjson.JSONDecodeError("unexpected character or end of data", "", at)


def _has_long_numbers(text: bytes) -> bool:
    """False only if ``text`` nowhere has `_SPAN` digits side by side: every ninth byte shows that."""
    if len(text) < _SPAN:
        return False
    digits = (np.frombuffer(text, np.uint8)[:: _SPAN // 2] - ord("0")) < 10
    return bool((digits[1:] & digits[:-1]).any())


@cache
def _decoder() -> Callable[[bytes], Any]:
    from msgspec.json import Decoder  # imported for long numbers alone

    return Decoder().decode


def _exactly(text: bytes) -> Any:
    """Parse with msgspec, which knows integers of any size."""
    try:
        return _decoder()(text)
    except (ValueError, RecursionError):
        # msgspec refuses deeper nesting than orjson.
        value = orjson.loads(text)  # either raises the error in its own words, or is less strict
        return slowly(text) if may_hold_large_integers(text) else value

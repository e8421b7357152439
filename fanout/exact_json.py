"""JSON in which every integer stays as it is written: orjson rounds those beyond 64 bits to floats, without a word."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

TOO_DEEP = "nested too deep"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHAPES = bytes(ord("0") if 48 <= byte < 58 else byte if byte in b'.-"' else ord(" ") for byte in range(256))
"""Each digit as 0, and each byte that may not stand before an integer as itself."""

_SPAN = 19
"""Digits that an integer beyond 64 bits has at least."""

_LARGE = (b" " + b"0" * 20, b"-" + b"0" * 19)
"""The shapes of integers beyond 64 bits; some within them have these too."""


def without_bom(text: bytes) -> bytes:
    """``text`` without the mark of the byte order that some programs put before JSON."""
    if not text.startswith(_BYTE_ORDER_MARK):
        return text  # itself, also where it is a bytearray, of which `removeprefix` makes a copy
    return text[len(_BYTE_ORDER_MARK) :]


def may_hold_large_integers(text: bytes) -> bool:
    """False only if no integer in ``text`` is beyond 64 bits, neither among its numbers nor within its strings."""
    if not _has_long_numbers(text):
        return False
    shapes = b" " + text.translate(_SHAPES)
    return any(large in shapes for large in _LARGE)


def parser_for(text: bytes) -> Callable[[bytes], Any]:
    """The quickest function that reads parts of ``text`` as `loads` does."""
    if not _has_long_numbers(text):
        return orjson.loads
    return _msgspec() or (loads if may_hold_large_integers(text) else orjson.loads)


def _has_long_numbers(text: bytes) -> bool:
    """False only if nowhere in ``text`` are there `_SPAN` digits side by side; a look at every ninth byte tells."""
    if len(text) < _SPAN:
        return False
    digits = (np.frombuffer(text, np.uint8)[:: _SPAN // 2] - ord("0")) < 10
    return bool((digits[1:] & digits[:-1]).any())


@cache
def _msgspec() -> Callable[[bytes], Any] | None:
    """msgspec's parser, where it is installed: it knows integers of any size, and leaves what it refuses to `loads`."""
    try:
        from msgspec.json import Decoder
    except ImportError:
        return None
    decode: Callable[[bytes], Any] = Decoder().decode

    def parse(text: bytes) -> Any:
        try:
            return decode(text)
        except Exception:  # noqa: BLE001 - whatever it is, the other parser says it in its own words
            return loads(text)

    return parse


def loads(text: bytes) -> Any:
    """The value that ``text`` holds. Raises `orjson.JSONDecodeError` where it is no JSON, or nested too deep."""
    text = without_bom(text)
    value = orjson.loads(text)
    return slowly(text) if may_hold_large_integers(text) else value


def slowly(text: bytes, number: Callable[[str], Any] = float) -> Any:
    """The value of JSON that orjson has read already, ``number`` made of the text of each number that is no integer.

    Raises `orjson.JSONDecodeError` where it is nested too deep for this parser.
    """
    try:
        return json.loads(text.decode(), parse_float=number)
    except RecursionError:
        raise orjson.JSONDecodeError(TOO_DEEP, "", 0) from None

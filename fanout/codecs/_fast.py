"""Quicker ways from JSON numbers to arrays; quickest where the extra ``fast`` is installed.

None of them guesses: an answer that is not plainly what it should be, or that holds numbers whose exactness they cannot
see, is left to the exact way. Both ways give the same values; of fields that nobody asks for the quick ones see less.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.extent import within

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.types import Array

LARGE = 4096
"""From about here on a parser that makes no Python objects is worth its start."""

AT_ONCE = 2**20
"""Bytes that such a parser may take at once: up to here it is done within some milliseconds."""

_MOST_MISSES = 3
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DOUBLE = np.dtype(np.float64)
_NUMBERS = {int, float}


def available(name: str) -> bool:
    """True if an optional module can be imported."""
    try:
        return find_spec(name) is not None
    except ValueError:  # a module that somebody has put a None in the place of
        return False


class NumbersReader:
    """Reads the numbers of answers whose rows are numbers, or lists of numbers of one length.

    Args:
        field: where in the document they are; None: they are the document.
        dtype: a floating dtype.
    """

    def __init__(self, field: str | None, dtype: np.dtype[Any]) -> None:
        self._field = field
        self._dtype = dtype
        self._typed: Callable[[bytes], Any] | None = None
        self._nested = True
        self._misses = 0
        self._buffers = Buffers() if available("simdjson") else None
        self._can_be_typed = available("msgspec")

    def read(self, body: bytes) -> Array | None:
        """The array, or None for the exact way to find out."""
        if self._misses >= _MOST_MISSES:
            return None
        if len(body) >= LARGE and self._buffers is not None:
            made = self._buffers.rows(body, self._field)
        else:
            made = self._from_typed(body) if self._can_be_typed else _from_objects(body, self._field)
        exact = None if made is None else exact_in(made, self._dtype)
        self._misses = self._misses + 1 if exact is None else 0
        return exact

    def _from_typed(self, body: bytes) -> Array | None:
        if self._typed is None:
            self._typed = _typed_decoder(self._field, nested=self._nested)
        try:
            made = np.array(self._typed(body), _DOUBLE)
        except Exception:  # noqa: BLE001 - errors of msgspec before 0.21 are no ValueError
            self._typed, self._nested = None, not self._nested  # the next one's, perhaps
            return None
        return made if made.ndim == 1 + self._nested else None


def _from_objects(body: bytes, field: str | None) -> Array | None:
    """The same from Python objects, without a parser that knows what to expect."""
    try:
        document = orjson.loads(body)
        rows = document if field is None else document[field]
        nested = type(rows[0]) is list
        if nested and (set(map(type, rows)) != {list} or len(set(map(len, rows))) > 1):
            return None
        flat = list(chain.from_iterable(rows)) if nested else rows
        if not set(map(type, flat)) <= _NUMBERS:
            return None
        made = np.array(flat, _DOUBLE)
        return made.reshape(len(rows), -1) if nested else made
    except (ValueError, TypeError, LookupError):
        return None


class Buffers:
    """Numbers straight from a parser's memory, with every proof that flattening them would lose."""

    def __init__(self) -> None:
        self._parser: Any = None

    def rows(self, body: bytes, field: str | None) -> Array | None:
        """Rows that are lists of numbers of one length: float64, shape (rows, length)."""
        made: Array | None = self.parsed(
            body, lambda document: _rows(body, document if field is None else unambiguous(document)[field])
        )
        return made

    def parsed(self, body: bytes, convert: Callable[[Any], Any]) -> Any:
        """What ``convert`` makes of the document; None where that is no such document. It may keep no part of it."""
        import simdjson

        if body.startswith(_BYTE_ORDER_MARK):  # which this parser alone skips
            return None
        try:
            if self._parser is None:
                self._parser = simdjson.Parser()
            return convert(self._parser.parse(body))
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError, AttributeError):
            self._parser = None  # its next answer would fail on this one's error
            return None


def unambiguous(fields: Any) -> Any:
    """One of simdjson's objects. Raises `ValueError` where a name comes twice: each parser has its own choice."""
    if len(set(fields)) != len(fields):
        raise ValueError("the same name twice")
    return fields


def vectors(body: bytes, items: Any) -> tuple[Array, list[Any]] | None:
    """The ``embedding`` of each of simdjson's objects, float64 of shape (items, width), and their ``index``."""
    if not len(items) or not _opens(body, len(items) + 1):
        return None
    made, indices = None, []
    for i, item in enumerate(items):
        values = unambiguous(item)["embedding"]
        row = np.frombuffer(values.as_buffer(of_type="d"), _DOUBLE)
        if made is None:
            made = np.empty((len(items), len(row)), _DOUBLE)
        if len(values) != len(row) or row.shape != made.shape[1:]:
            return None
        made[i] = row
        indices.append(item.get("index"))
    return None if made is None or not made.size else (made, indices)


@cache
def _first_inexact(dtype: np.dtype[Any]) -> float:
    """Up to here a floating dtype holds every integer."""
    return 2.0 ** (int(np.finfo(dtype).nmant) + 1)


def exact_in(doubles: Array, dtype: np.dtype[Any]) -> Array | None:
    """``doubles`` as ``dtype``; None where one is not finite, or so large that an integer may have been rounded."""
    if not within(doubles, _first_inexact(dtype)):
        return None
    return doubles if dtype == _DOUBLE else doubles.astype(dtype)


def _rows(body: bytes, rows: Any) -> Array | None:
    lengths = {len(row) for row in rows}
    # The buffer is flat: brackets deeper in would not be seen in it.
    if len(lengths) != 1 or not _opens(body, len(rows) + 1):
        return None
    return np.frombuffer(rows.as_buffer(of_type="d"), _DOUBLE).reshape(len(rows), lengths.pop())


def _opens(body: bytes, lists: int) -> bool:
    """True if there are so many opening brackets. Of few in a large body, `find` is several times quicker
    than `count`.
    """
    at, found = body.find(b"["), 0
    while at >= 0 and found <= lists:
        at, found = body.find(b"[", at + 1), found + 1
    return found == lists


def _typed_decoder(field: str | None, *, nested: bool) -> Callable[[bytes], Any]:
    import msgspec

    kind: Any = list[list[float]] if nested else list[float]
    if field is None:
        return msgspec.json.Decoder(kind).decode
    answer: Any = msgspec.defstruct("DecodedResponse", [("values", kind)], rename={"values": field}, gc=False)
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(answer).decode
    return lambda body: decode(body).values

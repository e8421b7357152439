"""Read the numbers of large JSON answers into arrays without a Python object for each number.

simdjson hands them out as one buffer. It is installed where it has a wheel. The results are exactly the values of
`fanout.codecs._parsing`, or None: an answer of any other structure is left to the exact parser.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.rows import exact_digits, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.types import Array

LARGE = 4096
"""Bytes from which on simdjson is worth its start."""

AT_ONCE = 2**20
"""Bytes that one call of these readers may take: they hold the interpreter lock for some milliseconds."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DOUBLE = np.dtype(np.float64)

MOST_MISSES = 3
"""Answers of one model have one structure. After these misses in a row no further answer is tried."""


class SimdjsonReader:
    """Take numbers out of simdjson's memory, with every check that its flat buffers leave out."""

    def __init__(self) -> None:
        self._parser: Any = None

    @staticmethod
    def is_installed() -> bool:
        """True if simdjson can be imported."""
        try:
            return find_spec("simdjson") is not None
        except ValueError:  # None stands in place of the module in `sys.modules`
            return False

    def rows(self, body: bytes, field: str | None) -> Array | None:
        """Rows that are lists of numbers of one length: float64, shape (rows, length)."""
        rows: Array | None = self.parsed(
            body, lambda document: _rows(body, document if field is None else require_unique_names(document)[field])
        )
        return rows

    def parsed(self, body: bytes, convert: Callable[[Any], Any]) -> Any:
        """Call ``convert`` with the parsed document, of which it may keep no part. None if either fails."""
        import simdjson

        if body.startswith(_BYTE_ORDER_MARK):  # no other parser skips it
            return None
        try:
            if self._parser is None:
                # A parser keeps its memory for the next document, which is most of its speed.
                self._parser = simdjson.Parser()
            return convert(self._parser.parse(body))
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError, AttributeError):
            self._parser = None  # a parser that has raised an error raises it for the next document too
            return None


class PlacedNumbersReader:
    """Reads small answers whose items state their row and one number each, as rerankers give them.

    msgspec reads each item as the two fields that are wanted, which costs a third of what reading all fields and then
    putting the items in order does. An answer in which a row, a number or an item is missing, or whose numbers may not
    be exact, is left to the exact parser.

    Args:
        field: name of the field that holds the items; None: they are the whole document.
        index: the field in which an item states its row.
        value: the field with its number.
        dtype: a floating dtype.
    """

    def __init__(self, field: str | None, index: str, value: str, dtype: np.dtype[Any]) -> None:
        self._field = field
        self._names = {"index": index, "value": value}
        self._dtype = dtype
        self._exact_below = exact_below(dtype)
        self._decode: Callable[[bytes], Any] | None = None
        self._misses = 0

    def read(self, body: bytes) -> Array | None:
        """The numbers in the order of the rows; None where the exact parser has to read the answer."""
        if self._misses >= MOST_MISSES or not body.isascii():  # msgspec lets bytes that are no UTF-8 pass unread
            return None
        decode = self._decode or self._decoder()
        try:
            items = decode(body)
            if self._field is not None:
                items = items.items
            placed = {item.index: item.value for item in items}
            # Fewer than there are items if a row comes twice, and a `KeyError` if one is missing.
            doubles = np.array([placed[row] for row in range(len(items))], DOUBLE)
        except (ValueError, KeyError, RecursionError):
            self._misses += 1
            return None
        if not within(doubles, self._exact_below):
            self._misses += 1
            return None
        self._misses = 0
        return doubles if self._dtype == DOUBLE else doubles.astype(self._dtype)

    def _decoder(self) -> Callable[[bytes], Any]:
        import msgspec  # imported with the first answer, so that the start of a command does not pay for it

        fields = [("index", int), ("value", float)]
        answer: Any = list[msgspec.defstruct("Item", fields, rename=self._names, gc=False)]  # type: ignore[misc]
        if self._field is not None:
            answer = msgspec.defstruct("Answer", [("items", answer)], rename={"items": self._field}, gc=False)
        self._decode = msgspec.json.Decoder(answer).decode
        return self._decode


def require_unique_names(fields: Any) -> Any:
    """Return an object of simdjson. Raises `ValueError` if a name comes twice, for parsers pick different values."""
    if len(set(fields)) != len(fields):
        raise ValueError("the same name twice")
    return fields


def vectors(body: bytes, items: Any) -> tuple[Array, list[Any]] | None:
    """The ``embedding`` of each of simdjson's objects, float64 of shape (items, width), and their ``index``."""
    if not len(items) or not _has_lists(body, len(items) + 1):
        return None
    buffers, lengths, indices = [], set(), []
    for item in items:
        values = require_unique_names(item)["embedding"]
        # The type "d" makes simdjson refuse null, texts and booleans.
        buffers.append(values.as_buffer(of_type="d"))
        lengths.add(len(values))
        indices.append(item.get("index"))
    # Without a nested list, each buffer is as long as its list.
    numbers = np.frombuffer(b"".join(buffers), DOUBLE)
    return (numbers.reshape(len(items), -1), indices) if len(lengths) == 1 and numbers.size else None


def exact_below(dtype: np.dtype[Any]) -> float:
    """The bound below which a floating dtype holds every integer."""
    return 2.0 ** exact_digits(dtype)


def _rows(body: bytes, rows: Any) -> Array | None:
    lengths = {len(row) for row in rows}
    # The buffer is flat, so that only the count of brackets shows that no list has another list in it.
    if len(lengths) != 1 or not _has_lists(body, len(rows) + 1):
        return None
    return np.frombuffer(rows.as_buffer(of_type="d"), DOUBLE).reshape(len(rows), lengths.pop())


def _has_lists(body: bytes, number: int) -> bool:
    """True if ``body`` has this number of opening brackets."""
    at, brackets = body.find(b"["), 0
    while at >= 0 and brackets <= number:  # for few brackets in a large body several times quicker than `count`
        at, brackets = body.find(b"[", at + 1), brackets + 1
    return brackets == number

"""Read JSON numbers into arrays without a Python object for each number.

msgspec reads small answers as the type that is expected. simdjson hands out the numbers of large answers as one buffer;
it is installed where it has a wheel, and msgspec takes its place elsewhere. Both readers give exactly the values of
`fanout.codecs._parsing`, or None: they leave an answer of any other structure, and numbers whose exactness they cannot
show, to the exact parser.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.rows import within

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.types import Array

LARGE = 4096
"""Bytes from which on simdjson is worth its start."""

AT_ONCE = 2**20
"""Bytes that one call of these readers may take: they hold the interpreter lock for some milliseconds."""

# Answers of one model have one structure. After these misses in a row no further answer is tried.
_MOST_MISSES = 3
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DOUBLE = np.dtype(np.float64)


class NumbersReader:
    """Read answers whose rows are numbers, or lists of numbers of one length.

    Args:
        field: name of the field that holds the rows; None: they are the whole document.
        dtype: a floating dtype.
    """

    def __init__(self, field: str | None, dtype: np.dtype[Any]) -> None:
        self._field = field
        self._dtype = dtype
        self._exact_below = exact_below(dtype)
        self._decode: Callable[[bytes], Any] | None = None
        self._nested = True
        self._misses = 0
        self._simdjson = SimdjsonReader() if SimdjsonReader.is_installed() else None

    def read(self, body: bytes) -> Array | None:
        """The array; None where the exact parser has to read the answer."""
        if self._misses >= _MOST_MISSES:  # answers of this model have another structure
            return None
        # simdjson starts slowly but makes no Python objects; msgspec knows the type, so it is quicker for small
        # answers.
        if len(body) >= LARGE and self._simdjson is not None:
            doubles = self._simdjson.rows(body, self._field)
        else:
            doubles = self._typed(body)
        if doubles is None or not within(doubles, self._exact_below):
            self._misses += 1
            return None
        self._misses = 0
        return doubles if self._dtype == _DOUBLE else doubles.astype(self._dtype)

    def _typed(self, body: bytes) -> Array | None:
        decode = self._decode or self._typed_decoder()
        try:
            answer = decode(body)
            # msgspec has checked every type, so numpy cannot turn a null or a text into a number here.
            doubles = np.array(answer if self._field is None else answer.values, _DOUBLE)
        except (ValueError, RecursionError):
            self._decode, self._nested = None, not self._nested  # the next answer may have the other structure
            return None
        return doubles if doubles.ndim == 1 + self._nested else None

    def _typed_decoder(self) -> Callable[[bytes], Any]:
        import msgspec  # imported with the first answer, so that the start of a command does not pay for it

        rows: Any = list[list[float]] if self._nested else list[float]
        if self._field is not None:
            rows = msgspec.defstruct("Answer", [("values", rows)], rename={"values": self._field}, gc=False)
        self._decode = msgspec.json.Decoder(rows).decode
        return self._decode


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


def require_unique_names(fields: Any) -> Any:
    """Return an object of simdjson. Raises `ValueError` if a name comes twice, for parsers pick different values."""
    if len(set(fields)) != len(fields):
        raise ValueError("the same name twice")
    return fields


def vectors(body: bytes, items: Any) -> tuple[Array, list[Any]] | None:
    """The ``embedding`` of each of simdjson's objects, float64 of shape (items, width), and their ``index``."""
    if not len(items) or not _has_lists(body, len(items) + 1):
        return None
    array, indices = None, []
    for i, item in enumerate(items):
        values = require_unique_names(item)["embedding"]
        # The type "d" makes simdjson refuse null, texts and booleans.
        row = np.frombuffer(values.as_buffer(of_type="d"), _DOUBLE)
        if array is None:
            array = np.empty((len(items), len(row)), _DOUBLE)
        # The buffer of a nested list is longer than the list.
        if len(values) != len(row) or row.shape != array.shape[1:]:
            return None
        array[i] = row
        indices.append(item.get("index"))
    return None if array is None or not array.size else (array, indices)


def exact_below(dtype: np.dtype[Any]) -> float:
    """The bound below which a floating dtype holds every integer."""
    return 2.0 ** (int(np.finfo(dtype).nmant) + 1)


def _rows(body: bytes, rows: Any) -> Array | None:
    lengths = {len(row) for row in rows}
    # The buffer is flat, so that only the count of brackets shows that no list has another list in it.
    if len(lengths) != 1 or not _has_lists(body, len(rows) + 1):
        return None
    return np.frombuffer(rows.as_buffer(of_type="d"), _DOUBLE).reshape(len(rows), lengths.pop())


def _has_lists(body: bytes, number: int) -> bool:
    """True if ``body`` has this number of opening brackets."""
    at, found = body.find(b"["), 0
    while at >= 0 and found <= number:  # for few brackets in a large body several times quicker than `count`
        at, found = body.find(b"[", at + 1), found + 1
    return found == number

"""Digests of single rows, which show which rows of two inputs are equal, whatever rows lie around them.

A journal keeps the digest of every row that was sent, and the name of the method that made them. Methods are added, and
none is changed: the journals of earlier releases have to be compared too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from xxhash import xxh3_128_digest

from fanout.io.fingerprint import bytes_of, is_plain, rows_as_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from fanout.types import Array, Rows

DIGEST_BYTES = 16
"""Bytes of one row's digest."""

BLAKE2B, XXH3 = "blake2b", "xxh3"

METHOD = XXH3
"""Name of the method for new journals."""

# Rows are hashed in pieces that fit the processor's cache.
_CACHED_BYTES = 2**18


def row_digests(rows: Rows, ids: Sequence[Any] | None = None, method: str = METHOD) -> Array:
    """Return a digest of each row's id and content; shape (rows, 2), uint64.

    Equal rows have equal digests in every process, and in every container that a block may use: an array, or a list
    because a value is missing in another row. Two different rows agree by chance once in about 2**64. Somebody who
    wants two rows to agree can make such rows.

    Raises `KeyError` for a ``method`` that is unknown.
    """
    return METHODS[method].of(rows, ids)


class _Method(NamedTuple):
    """Hashes narrow rows of an array together, and all others one by one.

    Attributes:
        wide_row_bytes: a row of an array is wide from this size on.
        of_each: hashes rows one by one. The salt changes every digest.
    """

    wide_row_bytes: int
    of_each: Callable[[Iterable[bytes | memoryview], str], Array]

    def of(self, rows: Rows, ids: Sequence[Any] | None) -> Array:
        if isinstance(rows, Mapping):
            digests = self._of_columns(rows)
        else:
            digests = self._of_array(rows) if is_plain(rows) else self._of_list(rows)
        # Two rows of equal content and other ids are different rows.
        return digests if ids is None else _mix(np.concatenate([digests, self._of_list(ids)], axis=1), "id")

    def _of_columns(self, columns: Mapping[str, Any]) -> Array:
        digests = [self.of(column, None) for column in columns.values()]
        return _mix(np.concatenate(digests, axis=1), "\0".join(columns))

    def _of_list(self, rows: Sequence[Any] | Array) -> Array:
        """Hash the rows of one kind together, as an array: the container must not change a row's digest."""
        # numpy makes a new text of each element whenever it is read.
        if isinstance(rows, np.ndarray) and rows.dtype.kind == "T":
            rows = rows.tolist()
        # Most lists are of texts alone. To look at their types at once takes a fifth of the time of the groups below.
        if len(types := set(map(type, rows))) == 1 and (kind := types.pop()) in (str, bytes, int):
            return self._of_kind(kind, rows)
        groups: dict[Any, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(_kind(row), []).append(i)
        digests: Array = np.empty((len(rows), 2), np.uint64)
        for kind, places in groups.items():
            digests[places] = self._of_kind(kind, rows if len(places) == len(rows) else [rows[i] for i in places])
        return digests

    def _of_kind(self, kind: Any, rows: Sequence[Any] | Array) -> Array:
        """Hash rows that are all of one `_kind`."""
        # Values of other types are hashed as JSON, one by one.
        if kind is None:
            return self.of_each((rows_as_bytes([row]) for row in rows), "")
        if kind is str:
            return self.of_each(_encoded(rows), "text")
        if kind is bytes:
            return self.of_each(rows, "bytes")
        if kind is int:
            return self.of_each((b"[%d]" % row for row in rows), "")  # the same bytes as JSON
        if isinstance(kind[0], tuple):
            return self._of_columns({name: [row[name] for row in rows] for name in kind[0]})
        return self._of_array(np.stack(list(rows)))

    def _of_array(self, array: Array) -> Array:
        salt = f"{array.dtype.str} {array.shape[1:]}"
        row_bytes = array.dtype.itemsize * prod(array.shape[1:])
        step = max(1, _CACHED_BYTES // max(1, row_bytes))
        pieces = (array[start : start + step] for start in range(0, max(1, len(array)), step))
        if row_bytes >= self.wide_row_bytes:
            return self.of_each((row for piece in pieces for row in _byte_rows(piece, row_bytes)), salt)
        parts = [np.frombuffer(bytes_of(piece), np.uint8).reshape(len(piece), row_bytes) for piece in pieces]
        mixed = [_mix(part, salt) for part in parts]
        return mixed[0] if len(mixed) == 1 else np.concatenate(mixed)


def _blake2b(rows: Iterable[bytes | memoryview], salt: str) -> Array:
    """BLAKE2b, the only method of journals without the name of one."""
    salted = blake2b(salt.encode(), digest_size=DIGEST_BYTES)
    digests: list[bytes] = []
    for row in rows:
        # To copy a hash is quicker than to make one and to hash the salt again.
        hashed = salted.copy()
        hashed.update(row)
        digests.append(hashed.digest())
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def _xxh3(rows: Iterable[bytes | memoryview], salt: str) -> Array:
    """XXH3 with 128 bits: a fifth of the time of BLAKE2b for a short text, a thirtieth for a long one.

    The source is https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, which fixes its values for good.
    """
    # A salt that is added to all digests at once costs a row next to nothing, which a seed does not.
    digests: Array = np.frombuffer(b"".join(map(xxh3_128_digest, rows)), "<u8").reshape(-1, 2) + _offset(salt)
    return digests


METHODS = {BLAKE2B: _Method(16 * 2**10, _blake2b), XXH3: _Method(512, _xxh3)}
"""The methods by their names."""


def _kind(row: Any) -> Any:
    """Return one value for all rows that could share an array or a mapping of columns; None for all others."""
    if type(row) in (str, bytes, int):
        return type(row)
    if isinstance(row, dict) and row and all(type(name) is str for name in row):
        return (tuple(row),)
    if isinstance(row, np.ndarray | np.generic) and row.dtype.kind in "biuf":
        return (row.dtype.str, row.shape)
    return None


def _encoded(texts: Sequence[str] | Array) -> list[bytes]:
    try:
        return list(map(str.encode, texts))
    except UnicodeEncodeError:  # JSON may hold half of a surrogate pair
        return [text.encode("utf-8", "surrogatepass") for text in texts]


def _byte_rows(array: Array, row_bytes: int) -> Iterator[memoryview]:
    data = bytes_of(array)
    for start in range(0, len(data), row_bytes):
        yield data[start : start + row_bytes]


def _mix(array: Array, salt: str) -> Array:
    """Hash each row by multiply-add: its 32-bit words times random odd 64-bit numbers, summed, for two sets of numbers.

    The method is multiply-shift hashing of vectors (Dietzfelbinger), without the shift.
    """
    data = array if array.dtype == np.uint8 else np.ascontiguousarray(array).view(np.uint8)
    # The sums are of words of 32 bits: a row is padded to whole words.
    if odd := data.shape[1] % 4:
        data = np.pad(data, ((0, 0), (0, 4 - odd)))
    words = np.ascontiguousarray(data).view("<u4").astype(np.uint64)
    mixed: Array = np.empty((len(words), 2), np.uint64)
    for column, factors in enumerate(_factors(words.shape[1])):
        np.einsum("ij,j->i", words, factors, out=mixed[:, column])
    # The dtype, the shape and the names of columns change every digest.
    mixed += _offset(salt)
    return mixed


@lru_cache(64)
def _offset(salt: str) -> Array:
    return np.frombuffer(blake2b(salt.encode(), digest_size=DIGEST_BYTES).digest(), "<u8")


@lru_cache(16)
def _factors(n_words: int) -> Array:
    """Return pseudo-random odd numbers that are the same in every process (SplitMix64); shape (2, n_words), uint64."""
    # SplitMix64 multiplies modulo 2**64, so its overflow is intended.
    with np.errstate(over="ignore"):
        z = np.arange(1, 2 * n_words + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> np.uint64(31))) | np.uint64(1)
    factors: Array = z.reshape(2, n_words)
    return factors

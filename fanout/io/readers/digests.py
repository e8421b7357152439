"""Digests of single rows: they show which rows of two inputs are the same, whatever lies around them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.io.readers.fingerprint import bytes_of, is_plain, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fanout.types import Array, Rows

DIGEST_BYTES = 16
_WIDE_BYTES = 16 * 2**10
"""Rows of this size and more are hashed one by one, shorter ones many at once."""

_PART_BYTES = 2**18
"""About how much is hashed at once: it stays in the cache, and the copy of it small."""


def row_digests(rows: Rows, ids: Sequence[Any] | None = None) -> Array:
    """One digest a row, of its id and its content; shape (rows, 2), uint64.

    Equal rows have equal digests, in every process, and whatever container a block has put them into: an array, or a
    list because a value is missing in another row. Two others have the same by chance, once in 2**64 or so.
    """
    digests = _of_columns(rows) if isinstance(rows, Mapping) else _of_array(rows) if is_plain(rows) else _of_list(rows)
    return digests if ids is None else _mixed(np.concatenate([digests, _of_list(ids)], axis=1), "id")


def _of_columns(columns: Mapping[str, Any]) -> Array:
    return _mixed(np.concatenate([row_digests(column) for column in columns.values()], axis=1), "\0".join(columns))


def _of_list(rows: Sequence[Any] | Array) -> Array:
    alike: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        alike.setdefault(_kind(row), []).append(i)
    digests: Array = np.empty((len(rows), 2), np.uint64)
    for kind, places in alike.items():
        group = rows if len(places) == len(rows) else [rows[i] for i in places]
        if kind is None:
            digests[places] = _digests((written([row]) for row in group), "")
        elif kind is str:
            digests[places] = _digests((row.encode(errors="surrogatepass") for row in group), "text")
        elif isinstance(kind[0], tuple):
            digests[places] = _of_columns({name: [row[name] for row in group] for name in kind[0]})
        else:
            digests[places] = _of_array(np.stack(list(group)))
    return digests


def _kind(row: Any) -> Any:
    """The same for rows that could be in one array, or in one mapping of columns; None for all others."""
    if type(row) is str:
        return str
    if isinstance(row, dict) and row and all(type(name) is str for name in row):
        return (tuple(row),)
    if isinstance(row, np.ndarray | np.generic) and row.dtype.kind in "biuf":
        return (row.dtype.str, row.shape)
    return None


def _of_array(array: Array) -> Array:
    form = f"{array.dtype.str} {array.shape[1:]}"
    row_bytes = array.dtype.itemsize * prod(array.shape[1:])
    if row_bytes < _WIDE_BYTES:
        step = max(1, _PART_BYTES // max(1, row_bytes))
        parts = [array[start : start + step] for start in range(0, max(1, len(array)), step)]
        mixed = [_mixed(np.frombuffer(bytes_of(part), np.uint8).reshape(len(part), row_bytes), form) for part in parts]
        return mixed[0] if len(mixed) == 1 else np.concatenate(mixed)
    return _digests((bytes_of(row[None]) for row in array), form)


def _digests(parts: Iterable[bytes | memoryview], form: str) -> Array:
    salted = blake2b(form.encode(), digest_size=DIGEST_BYTES)

    def digest(part: bytes | memoryview) -> bytes:
        hashed = salted.copy()
        hashed.update(part)
        return hashed.digest()

    return np.frombuffer(b"".join(map(digest, parts)), "<u8").reshape(-1, 2)


def _mixed(array: Array, form: str) -> Array:
    """Multiply the words of 32 bits of each row by random odd numbers of 64 bits, and add them up, twice."""
    data = array if array.dtype == np.uint8 else np.ascontiguousarray(array).view(np.uint8)
    if odd := data.shape[1] % 4:
        data = np.pad(data, ((0, 0), (0, 4 - odd)))
    words = np.ascontiguousarray(data).view("<u4").astype(np.uint64)
    salt = np.frombuffer(blake2b(form.encode(), digest_size=DIGEST_BYTES).digest(), "<u8")
    mixed: Array = np.empty((len(words), 2), np.uint64)
    for column, factors in enumerate(_factors(words.shape[1])):
        np.einsum("ij,j->i", words, factors, out=mixed[:, column])
    mixed += salt
    return mixed


@lru_cache(16)
def _factors(n_words: int) -> Array:
    """Numbers that look random and are the same for ever (SplitMix64)."""
    with np.errstate(over="ignore"):
        z = np.arange(1, 2 * n_words + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> np.uint64(31))) | np.uint64(1)
    factors: Array = z.reshape(2, n_words)
    return factors

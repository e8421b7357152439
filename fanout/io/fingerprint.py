"""Fingerprints of whole inputs, and digests of single rows.

A fingerprint identifies an input, so that a run can be resumed: files are sampled, rows in memory are read whole.
Digests show which rows of two inputs are equal, whatever rows lie around them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from math import prod
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import orjson

from fanout.io.remote.file import RemoteFile
from fanout.rows import count_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fanout.io.remote.file import InputPath
    from fanout.types import Array, Rows

DIGEST_BYTES = 16
"""Bytes of one row's digest."""

SAMPLES = 16
_SAMPLE_BYTES = 4096
_JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_JSON_TYPES = (str, int, float, list, tuple, dict, type(None))

# Arrays are hashed in pieces of this size, other rows in groups of this number, so that copies stay small.
_PIECE_BYTES = 4 * 2**20
_PIECE_ROWS = 4096

# Wider rows are hashed one by one. Narrower ones are hashed together, in pieces that fit the processor's cache.
_WIDE_ROW_BYTES = 16 * 2**10
_CACHED_BYTES = 2**18


def of_file(path: InputPath) -> dict[str, Any]:
    """Return size, time of change, and a hash of the file's head, its tail and 16 samples between, 4 KiB each.

    The name and the folder are left out: the same file elsewhere is the same input. A remote file has its URL, its size
    and its tag instead.
    """
    if isinstance(path, RemoteFile):
        return path.fingerprint()
    digest = hashlib.blake2b(digest_size=16)
    # A whole large file would take longer to read than the run itself may take.
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        last = max(0, status.st_size - _SAMPLE_BYTES)
        for i in range(SAMPLES + 2):
            digest.update(os.pread(file.fileno(), _SAMPLE_BYTES, last * i // (SAMPLES + 1)))
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sample": digest.hexdigest()}


def stamp(path: InputPath) -> tuple[int, ...] | None:
    """Return inode, size, and both times of change, which differ once a file has changed; None if it is gone."""
    # Each read of a remote file checks its version, so that no rows of another one can have been read.
    if isinstance(path, RemoteFile):
        return (path.stat().st_size, 0)
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def of_rows(blocks: Iterable[Rows]) -> str:
    """Return a hash of all rows of some blocks: every byte of arrays, every value of lists."""
    digest = hashlib.blake2b(digest_size=16)
    for rows in blocks:
        for piece in _pieces(rows):
            digest.update(piece)
    return digest.hexdigest()


def rows_as_bytes(rows: Rows) -> bytes:
    """Return the values of some rows as bytes, with their dtype and shape if they are an array."""
    if _is_plain(rows):
        return _dtype_and_shape(rows) + _bytes_of(rows)
    if isinstance(rows, Mapping):
        return b"".join(rows_as_bytes(column) for column in rows.values())
    values = [_without_numpy(row) for row in rows]
    try:
        return orjson.dumps(values, option=_JSON, default=_without_numpy)
    except TypeError:
        # orjson refuses integers beyond 64 bits and arrays of the other byte order.
        return json.dumps(values, default=_without_numpy).encode()


def row_digests(rows: Rows, ids: Sequence[Any] | None = None) -> Array:
    """Return a digest of each row's id and content; shape (rows, 2), uint64.

    Equal rows have equal digests in every process, and in every container that a block may use: an array, or a list
    because a value is missing in another row. Two different rows agree by chance once in about 2**64.
    """
    if isinstance(rows, Mapping):
        digests = _digests_of_columns(rows)
    else:
        digests = _digests_of_array(rows) if _is_plain(rows) else _digests_of_list(rows)
    # Two rows of equal content and other ids are different rows.
    return digests if ids is None else _mix(np.concatenate([digests, _digests_of_list(ids)], axis=1), "id")


def _pieces(rows: Rows) -> Iterator[bytes | memoryview]:
    """Yield the bytes to hash, in pieces of bounded size."""
    if isinstance(rows, Mapping):
        for name, column in rows.items():
            # The name separates the columns: the same bytes in another column are another input.
            yield orjson.dumps(str(name))
            yield from _pieces(column)
    elif _is_plain(rows):
        yield _dtype_and_shape(rows)
        step = max(1, _PIECE_BYTES // max(1, rows[:1].nbytes))
        for start in range(0, len(rows), step):
            yield _bytes_of(rows[start : start + step])
    else:
        for start in range(0, count_rows(rows), _PIECE_ROWS):
            yield rows_as_bytes(take_rows(rows, slice(start, start + _PIECE_ROWS)))


def _is_plain(rows: Rows) -> TypeGuard[Array]:
    """Return True for an array whose values are its bytes, which those of objects and `StringDType` are not."""
    return isinstance(rows, np.ndarray) and rows.dtype.kind in "biufUS"


def _dtype_and_shape(array: Array) -> bytes:
    return f"{array.dtype} {array.shape} ".encode()


def _bytes_of(array: Array) -> memoryview:
    """Return the bytes of a plain array; they are copied only if they are not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _without_numpy(value: Any) -> Any:
    # The repr of an array is abbreviated, so that two different arrays could look the same.
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if isinstance(value, _JSON_TYPES) else repr(value)


def _digests_of_columns(columns: Mapping[str, Any]) -> Array:
    return _mix(np.concatenate([row_digests(column) for column in columns.values()], axis=1), "\0".join(columns))


def _digests_of_list(rows: Sequence[Any] | Array) -> Array:
    """Hash the rows of one kind together, as if they were an array: the container must not change a row's digest."""
    # Most lists are of texts alone. To look at their types at once takes a fifth of the time of the groups below.
    if len(types := set(map(type, rows))) == 1 and (kind := types.pop()) in (str, bytes):
        return _digests_of_kind(kind, rows)
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(_kind(row), []).append(i)
    digests: Array = np.empty((len(rows), 2), np.uint64)
    for kind, places in groups.items():
        digests[places] = _digests_of_kind(kind, rows if len(places) == len(rows) else [rows[i] for i in places])
    return digests


def _digests_of_kind(kind: Any, rows: Sequence[Any] | Array) -> Array:
    """Hash rows that are all of one `_kind`."""
    # Values of other types are hashed as JSON, one by one.
    if kind is None:
        return _hash_each((rows_as_bytes([row]) for row in rows), "")
    if kind is str:
        return _hash_each((row.encode("utf-8", "surrogatepass") for row in rows), "text")
    if kind is bytes:
        return _hash_each(rows, "bytes")
    if isinstance(kind[0], tuple):
        return _digests_of_columns({name: [row[name] for row in rows] for name in kind[0]})
    return _digests_of_array(np.stack(list(rows)))


def _kind(row: Any) -> Any:
    """Return one value for all rows that could share an array or a mapping of columns; None for all others."""
    if type(row) in (str, bytes):
        return type(row)
    if isinstance(row, dict) and row and all(type(name) is str for name in row):
        return (tuple(row),)
    if isinstance(row, np.ndarray | np.generic) and row.dtype.kind in "biuf":
        return (row.dtype.str, row.shape)
    return None


def _digests_of_array(array: Array) -> Array:
    salt = f"{array.dtype.str} {array.shape[1:]}"
    row_bytes = array.dtype.itemsize * prod(array.shape[1:])
    if row_bytes >= _WIDE_ROW_BYTES:
        return _hash_each((_bytes_of(row[None]) for row in array), salt)
    step = max(1, _CACHED_BYTES // max(1, row_bytes))
    parts = [array[start : start + step] for start in range(0, max(1, len(array)), step)]
    mixed = [_mix(np.frombuffer(_bytes_of(part), np.uint8).reshape(len(part), row_bytes), salt) for part in parts]
    return mixed[0] if len(mixed) == 1 else np.concatenate(mixed)


def _hash_each(rows: Iterable[bytes | memoryview], salt: str) -> Array:
    salted = blake2b(salt.encode(), digest_size=DIGEST_BYTES)
    digests: list[bytes] = []
    for row in rows:
        # To copy a hash is quicker than to make one and to hash the salt again.
        hashed = salted.copy()
        hashed.update(row)
        digests.append(hashed.digest())
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def _mix(array: Array, salt: str) -> Array:
    """Hash each row by multiply-add: its 32-bit words times random odd 64-bit numbers, summed, for two sets of numbers.

    The method is multiply-shift hashing of vectors (Dietzfelbinger), without the shift.
    """
    data = array if array.dtype == np.uint8 else np.ascontiguousarray(array).view(np.uint8)
    # The sums are of words of 32 bits: a row is padded to whole words.
    if odd := data.shape[1] % 4:
        data = np.pad(data, ((0, 0), (0, 4 - odd)))
    words = np.ascontiguousarray(data).view("<u4").astype(np.uint64)
    # The dtype, the shape and the names of columns change every digest.
    offset = np.frombuffer(blake2b(salt.encode(), digest_size=DIGEST_BYTES).digest(), "<u8")
    mixed: Array = np.empty((len(words), 2), np.uint64)
    for column, factors in enumerate(_factors(words.shape[1])):
        np.einsum("ij,j->i", words, factors, out=mixed[:, column])
    mixed += offset
    return mixed


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

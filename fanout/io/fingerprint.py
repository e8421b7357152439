"""Fingerprints of whole inputs, which identify an input so that a run can be resumed.

Files are sampled, rows in memory are read whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import orjson

from fanout.io.remote.file import RemoteFile
from fanout.rows import count_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fanout.io.remote.file import InputPath
    from fanout.types import Array, Rows

SAMPLES = 16
_SAMPLE_BYTES = 4096
_JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_JSON_TYPES = (str, int, float, list, tuple, dict, type(None))

# Arrays are hashed in pieces of this size, other rows in groups of this number, so that copies stay small.
_PIECE_BYTES = 4 * 2**20
_PIECE_ROWS = 4096


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
    if is_plain(rows):
        return _dtype_and_shape(rows) + bytes_of(rows)
    if isinstance(rows, Mapping):
        return b"".join(rows_as_bytes(column) for column in rows.values())
    values = [_without_numpy(row) for row in rows]
    try:
        return orjson.dumps(values, option=_JSON, default=_without_numpy)
    except TypeError:
        # orjson refuses integers beyond 64 bits and arrays of the other byte order.
        return json.dumps(values, default=_without_numpy).encode()


def _pieces(rows: Rows) -> Iterator[bytes | memoryview]:
    """Yield the bytes to hash, in pieces of bounded size."""
    if isinstance(rows, Mapping):
        for name, column in rows.items():
            # The name separates the columns: the same bytes in another column are another input.
            yield orjson.dumps(str(name))
            yield from _pieces(column)
    elif is_plain(rows):
        yield _dtype_and_shape(rows)
        step = max(1, _PIECE_BYTES // max(1, rows[:1].nbytes))
        for start in range(0, len(rows), step):
            yield bytes_of(rows[start : start + step])
    else:
        for start in range(0, count_rows(rows), _PIECE_ROWS):
            yield rows_as_bytes(take_rows(rows, slice(start, start + _PIECE_ROWS)))


def is_plain(rows: Rows) -> TypeGuard[Array]:
    """Return True for an array whose values are its bytes, which those of objects and `StringDType` are not."""
    return isinstance(rows, np.ndarray) and rows.dtype.kind in "biufUS"


def _dtype_and_shape(array: Array) -> bytes:
    return f"{array.dtype} {array.shape} ".encode()


def bytes_of(array: Array) -> memoryview:
    """Return the bytes of a plain array; they are copied only if they are not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _without_numpy(value: Any) -> Any:
    # The repr of an array is abbreviated, so that two different arrays could look the same.
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if isinstance(value, _JSON_TYPES) else repr(value)

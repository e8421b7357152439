"""Fingerprints: they tell one input from another. Files are sampled, rows in memory are read whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import orjson

from fanout.types import count_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fanout.types import Array, Rows

SAMPLES = 16
_SAMPLE_BYTES = 4096
_JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_PART_BYTES = 4 * 2**20
_PART_ROWS = 4096
"""Rows without a size of their own are written, and hashed, so many at a time."""

_JSON_TYPES = (str, int, float, list, tuple, dict, type(None))


def of_file(path: Path) -> dict[str, Any]:
    """Size, time of the last change, and a hash of the file's head, tail and 16 samples between, 4 KiB each.

    Neither its name nor its folder: the same file elsewhere is the same input.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        for place in _places(status.st_size):
            digest.update(os.pread(file.fileno(), _SAMPLE_BYTES, place))
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sample": digest.hexdigest()}


def stamp(path: Path) -> tuple[int, int, int, int] | None:
    """What changes with a file: its inode, size, time of change, and that of its inode; None where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _places(size: int) -> list[int]:
    last = max(0, size - _SAMPLE_BYTES)
    return sorted({last * i // (SAMPLES + 1) for i in range(SAMPLES + 2)})


def of_rows(blocks: Iterable[Rows]) -> str:
    """A hash of all rows of some blocks: every byte of arrays, every value of lists."""
    digest = hashlib.blake2b(digest_size=16)
    for rows in blocks:
        for part in _parts(rows):
            digest.update(part)
    return digest.hexdigest()


def _parts(rows: Rows) -> Iterator[bytes | memoryview]:
    """What is hashed of some rows, in pieces of bounded size."""
    if isinstance(rows, Mapping):
        for name, column in rows.items():
            yield orjson.dumps(str(name))
            yield from _parts(column)
        return
    if is_plain(rows):
        yield described(rows)
        step = max(1, _PART_BYTES // max(1, rows[:1].nbytes))
        for start in range(0, len(rows), step):
            yield bytes_of(rows[start : start + step])
        return
    for start in range(0, count_rows(rows), _PART_ROWS):
        yield written(take_rows(rows, slice(start, start + _PART_ROWS)))


def is_plain(rows: Rows) -> TypeGuard[Array]:
    """True for an array whose values are its bytes."""
    return isinstance(rows, np.ndarray) and rows.dtype.kind in "biufUS"


def described(array: Array) -> bytes:
    """The dtype and shape of an array."""
    return f"{array.dtype} {array.shape} ".encode()


def bytes_of(array: Array) -> memoryview:
    """The values of a plain array, copied only where they do not lie side by side."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def written(rows: Rows) -> bytes:
    """The values of some rows as bytes, and their dtype and shape where they are an array."""
    if is_plain(rows):
        return described(rows) + bytes_of(rows)
    if isinstance(rows, Mapping):
        return b"".join(written(column) for column in rows.values())
    listed = [_plain(row) for row in rows]
    try:
        return orjson.dumps(listed, option=_JSON, default=_plain)
    except TypeError:  # integers beyond 64 bits, for instance, or arrays of another byte order
        return json.dumps(listed, default=_plain).encode()


def _plain(value: Any) -> Any:
    """A value as orjson can write it: never an abbreviation, as numpy makes of an array's text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if isinstance(value, _JSON_TYPES) else repr(value)

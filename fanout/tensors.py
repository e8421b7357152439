"""Tensors of the Open Inference Protocol as bytes: its data types, packed and unpacked, for client and server."""

from __future__ import annotations

from math import prod
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.types import Array, Buffer

# https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
_DTYPES: dict[str, str] = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_DATATYPES = {np.dtype(dtype): datatype for datatype, dtype in _DTYPES.items()}
_LENGTH = Struct("<I")
_TEXTS_AT_ONCE = 4096


def datatype_of(dtype: np.dtype[Any]) -> str | None:
    """The protocol's name of a numpy dtype, ``"BYTES"`` for texts, None where the protocol has none."""
    if dtype.kind in "TUS":
        return "BYTES"
    return _DATATYPES.get(dtype.newbyteorder("<"))


def dtype_of(datatype: str) -> np.dtype[Any] | None:
    """The numpy dtype that holds a protocol data type (texts: StringDType), None for an unknown one.

    BF16 has no numpy dtype: it is widened to float32, which holds it exactly.
    """
    if datatype == "BYTES":
        return np.dtypes.StringDType()
    if datatype == "BF16":
        return np.dtype("<f4")
    name = _DTYPES.get(datatype)
    return None if name is None else np.dtype(name)


def pack(array: Array, datatype: str) -> Buffer:
    """The raw little-endian, row-major bytes of ``array``, which must already have the data type's dtype."""
    if datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in (_encoded(item) for item in array.ravel().tolist()))
    if datatype == "BF16":
        return _bfloat16(array).tobytes()
    flat = np.ascontiguousarray(array, _DTYPES[datatype])
    return flat.reshape(-1).view(np.uint8).data  # a view, so that a large tensor is never copied


def rounded_to_bfloat16(array: Array) -> Array:
    """``array`` (float32) as BF16 holds it, as float32: of numbers near the largest float32 it makes infinity."""
    return (_bfloat16(array).astype("<u4") << 16).view("<f4")


def _bfloat16(array: Array) -> Array:
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    nearest_even = bits + 0x7FFF + ((bits >> 16) & 1)  # cutting the low half off would round towards zero
    nan = bits | 0x400000  # with a bit that stays, else some would become infinity
    return (np.where(np.isnan(array), nan, nearest_even) >> 16).astype("<u2")


def unpack(data: Buffer, datatype: str, shape: Sequence[int]) -> Array:
    """The tensor in ``data``; a read-only view where the data type allows. Raises ValueError if the length is wrong."""
    if datatype == "BYTES":
        return _unpack_texts(data, shape)
    if datatype == "BF16":
        half = np.frombuffer(data, "<u2").reshape(shape)
        return (half.astype("<u4") << 16).view("<f4")
    if datatype not in _DTYPES:
        raise ValueError(f"unknown data type {datatype!r}")
    return np.frombuffer(data, _DTYPES[datatype]).reshape(shape)


def _encoded(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def _unpack_texts(data: Buffer, shape: Sequence[int]) -> Array:
    view, at, n = memoryview(data), 0, prod(shape)
    made = np.empty(min(n, len(view) // _LENGTH.size), np.dtypes.StringDType())
    for start in range(0, n, _TEXTS_AT_ONCE):  # as objects they take many times their memory
        texts: list[str] = []
        for _ in range(min(_TEXTS_AT_ONCE, n - start)):
            if at == len(view):
                raise ValueError(f"a BYTES tensor of shape {list(shape)} holds {start + len(texts)} elements")
            if at + _LENGTH.size > len(view):
                raise ValueError("a BYTES tensor breaks off inside a length")
            (length,) = _LENGTH.unpack_from(view, at)
            at += _LENGTH.size + length
            if at > len(view):
                raise ValueError("a BYTES tensor breaks off inside an element")
            texts.append(str(view[at - length : at], "utf-8"))
        made[start : start + len(texts)] = texts
    if at != len(view):
        raise ValueError(f"a BYTES tensor of shape {list(shape)} holds more elements")
    return made.reshape(shape)

"""Datatypes of the Open Inference Protocol, and its tensors as bytes, for client and server."""

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
    """The protocol's datatype for a numpy dtype: ``"BYTES"`` for texts; None if the protocol has none."""
    if dtype.kind in "TUS":
        return "BYTES"
    return _DATATYPES.get(dtype.newbyteorder("<"))


def dtype_of(datatype: str) -> np.dtype[Any] | None:
    """The numpy dtype for a datatype (texts: StringDType); None for an unknown one.

    BF16 becomes float32, which holds it exactly, because numpy has no dtype for it.
    """
    if datatype == "BYTES":
        return np.dtypes.StringDType()
    if datatype == "BF16":
        return np.dtype("<f4")
    name = _DTYPES.get(datatype)
    return None if name is None else np.dtype(name)


def pack(array: Array, datatype: str) -> Buffer:
    """The raw bytes of ``array``, little-endian and row-major. It must have the dtype of the datatype."""
    if datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in (_encoded(item) for item in array.ravel().tolist()))
    if datatype == "BF16":
        return _bfloat16(array).tobytes()
    flat = np.ascontiguousarray(array, _DTYPES[datatype])
    return flat.reshape(-1).view(np.uint8).data  # a view, because a copy of a large tensor is slow


def rounded_to_bfloat16(array: Array) -> Array:
    """Round ``array`` (float32) to BF16, as float32. Numbers near the largest float32 become infinity."""
    return (_bfloat16(array).astype("<u4") << 16).view("<f4")


def _bfloat16(array: Array) -> Array:
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    # Without this sum the cut of the low half would round towards zero.
    nearest_even = bits + 0x7FFF + ((bits >> 16) & 1)
    # A bit in the upper half, without which some NaN would become infinity.
    nan = bits | 0x400000
    return (np.where(np.isnan(array), nan, nearest_even) >> 16).astype("<u2")


def unpack(data: Buffer, datatype: str, shape: Sequence[int]) -> Array:
    """Read a tensor, as a read-only view if the datatype allows it. Raises `ValueError` for a wrong length."""
    if datatype == "BYTES":
        return _unpack_texts(data, shape)
    if datatype == "BF16":
        half = np.frombuffer(data, "<u2").reshape(shape)
        return (half.astype("<u4") << 16).view("<f4")
    if datatype not in _DTYPES:
        raise ValueError(f"unknown datatype {datatype!r}")
    return np.frombuffer(data, _DTYPES[datatype]).reshape(shape)


def _encoded(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def _unpack_texts(data: Buffer, shape: Sequence[int]) -> Array:
    view, at, n = memoryview(data), 0, prod(shape)
    array = np.empty(min(n, len(view) // _LENGTH.size), np.dtypes.StringDType())
    # As Python objects, all texts at once would take many times their bytes.
    for start in range(0, n, _TEXTS_AT_ONCE):
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
        array[start : start + len(texts)] = texts
    if at != len(view):
        raise ValueError(f"a BYTES tensor of shape {list(shape)} holds more elements")
    return array.reshape(shape)

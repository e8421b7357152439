"""The output tensors of an infer answer, each as JSON or as bytes behind it: the answer decides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from fanout._escape import shortened
from fanout.codecs._parsing import read, refused
from fanout.codecs._slices import Reader, Uncut, around, lists_named
from fanout.codecs._values import Unfit, Wanted, array
from fanout.errors import InvalidResponse
from fanout.tensors import dtype_of, unpack
from fanout.weight import LIGHT

if TYPE_CHECKING:
    from fanout.types import Array, Response

LENGTH_HEADER = "Inference-Header-Content-Length"
_MOST_DIGITS = 20
_MOST_AXES = 64
_LARGE_HEAD = 2**16
_CONVERTED = (b"BYTES", b"BF16")
"""Data types whose tensors are no views of the answer."""
_DATATYPE = re.compile(rb'"datatype"[ \t\n\r]*:[ \t\n\r]*"([A-Z0-9]{1,10})"')
"""It most often stands before the data. If it does not, the answer is parsed whole."""


class _Output(NamedTuple):
    name: str
    datatype: str
    shape: list[int]
    size: int | None
    """Bytes behind the JSON; None: the data is in the JSON."""
    data: Any
    """A list; an array where it was read in slices."""


def tensors(response: Response, *, keep: bool) -> dict[str, Array]:
    """The answer's outputs by name, in its order; views of its body where the datatype allows.

    Raises `InvalidResponse`: no JSON, values unlike the datatype, or sizes that do not agree.
    """
    head, tail = _split(response)
    if len(head.body) > LIGHT and not tail and (found := _in_slices(head, keep=keep)) is not None:
        return found
    described: list[_Output] = []

    def convert(document: object) -> dict[str, Array]:
        described[:] = _outputs(document)
        return {output.name: _from_json(output, keep=keep) for output in described if output.size is None}

    in_json = read(head, convert, keep=keep)
    assert isinstance(in_json, Mapping)
    return dict(in_json) | _from_bytes([output for output in described if output.size is not None], tail)


def _in_slices(response: Response, *, keep: bool) -> dict[str, Array] | None:
    """The outputs of a large answer, all in its JSON; None if it has to be parsed whole."""
    body, at = response.body, 0
    read: dict[str, tuple[str, Array]] = {}
    places: list[tuple[int, int, str]] = []
    lists = lists_named(body, "data")
    for start in lists:
        if start < at:  # within the one before
            continue
        told = _DATATYPE.findall(body, max(at, start - _LARGE_HEAD), start)
        if not told or (dtype := dtype_of(told[-1].decode())) is None:
            return None
        wanted = Wanted(dtype, keep=keep, nulls=keep)
        try:
            values, at = Reader(response, partial(array, wanted=wanted), keep=keep).read(start)
        except Uncut:
            return None
        except Unfit as error:
            if places or next(lists, None) is not None:
                return None
            raise refused(response, Unfit(f"has an output that {error.args[0]}", error_kind=error.error_kind)) from None
        assert isinstance(values, np.ndarray)
        places.append((start, at, mark := uuid4().hex))
        read[mark] = told[-1].decode(), values
    try:
        return _of_read(around(body, places), read) if places else None
    except Uncut:
        return None
    except Unfit as error:
        raise refused(response, error) from None


def _of_read(document: Any, read: dict[str, tuple[str, Array]]) -> dict[str, Array]:
    """The outputs of a document that has marks in place of the data that was ``read``. Raises `Uncut`, `Unfit`."""
    listed = document.get("outputs") if isinstance(document, dict) else None
    for item in listed if isinstance(listed, list) else []:
        data = item.get("data") if isinstance(item, dict) else None
        if isinstance(data, str) and data in read:
            datatype, item["data"] = read.pop(data)
            if item.get("datatype") != datatype:
                raise Uncut
    if read:
        raise Uncut
    return {output.name: _shaped(output, output.data) for output in _outputs(document)}


def is_of_views(response: Response) -> bool:
    """True if the answer is small but for the bytes of tensors that need no conversion."""
    told = response.headers.get(LENGTH_HEADER, "")
    length = int(told) if told.isascii() and told.isdigit() and len(told) < _MOST_DIGITS else _LARGE_HEAD
    return length < _LARGE_HEAD and not any(kind in response.body[:length] for kind in _CONVERTED)


def _split(response: Response) -> tuple[Response, memoryview]:
    """The JSON part, and the bytes behind it."""
    told = response.headers.get(LENGTH_HEADER)
    if told is None:
        return response, memoryview(b"")
    if not (told.isascii() and told.isdigit() and len(told) < _MOST_DIGITS and int(told) <= len(response.body)):
        raise InvalidResponse(
            f"{LENGTH_HEADER} is {shortened(told, _MOST_DIGITS)!r}, but the answer has {len(response.body)} bytes"
        )
    length = int(told)
    return replace(response, body=response.body[:length]), memoryview(response.body)[length:]


def _outputs(document: object) -> list[_Output]:
    listed = document.get("outputs") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise Unfit("has no list 'outputs'")
    outputs = [_output(item) for item in listed]
    if len({output.name for output in outputs}) < len(outputs):
        raise Unfit("has two outputs of the same name")
    return outputs


def _output(item: Any) -> _Output:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise Unfit("has an output without a name")
    name, datatype, shape = item["name"], item.get("datatype"), item.get("shape")
    if not isinstance(datatype, str) or dtype_of(datatype) is None:
        raise Unfit(f"has output {name!r} of the datatype {shortened(repr(datatype), 100)}, which is not known")
    if isinstance(shape, list) and len(shape) > _MOST_AXES:
        raise Unfit(f"has output {name!r} with a shape of {len(shape)} lengths")
    if not isinstance(shape, list) or not all(type(length) is int and length >= 0 for length in shape) or not shape:
        raise Unfit(f"has output {name!r} of the shape {shortened(repr(shape), 1000)}, which is none of rows")
    parameters = item.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size < 0):
        raise Unfit(f"has output {name!r} with the binary_data_size {shortened(repr(size), 100)}")
    if size is None and not isinstance(item.get("data"), list | np.ndarray):
        raise Unfit(f"has output {name!r} without data")
    return _Output(name, datatype, shape, size, item.get("data"))


def _from_json(output: _Output, *, keep: bool) -> Array:
    wanted = Wanted(dtype_of(output.datatype), keep=keep, nulls=keep)
    try:
        made = array(output.data, wanted)
    except Unfit as error:
        nested = isinstance(output.data[0], list)
        row = error.row if nested or error.row is None else error.row // max(1, prod(output.shape[1:]))
        raise Unfit(f"of output {output.name!r} {error.args[0]}", row=row, error_kind=error.error_kind) from None
    return _shaped(output, made)


def _shaped(output: _Output, made: Array) -> Array:
    flat = made.ndim == 1 and made.size == prod(output.shape)
    if not flat and list(made.shape) != output.shape:
        data = f"data of shape {list(made.shape)}"
        raise Unfit(f"has output {output.name!r} of the shape {output.shape} with {data}", error_kind="shape")
    return made.reshape(output.shape)


def _from_bytes(outputs: list[_Output], data: memoryview) -> dict[str, Array]:
    told = sum(output.size or 0 for output in outputs)
    if told != len(data):
        raise InvalidResponse(f"the answer tells of {told} bytes behind its JSON, but {len(data)} came")
    arrays, at = {}, 0
    for output in outputs:
        part = data[at : at + (output.size or 0)]
        at += len(part)
        try:
            arrays[output.name] = unpack(part, output.datatype, output.shape)
        except ValueError as error:
            size = f"{output.datatype} of shape {output.shape} in {len(part)} bytes"
            raise InvalidResponse(f"output {output.name!r} is no {size}: {error}") from None
        # numpy would show any byte as a bool, and later compare it as it pleases.
        if output.datatype == "BOOL" and np.frombuffer(part, np.uint8).max(initial=0) > 1:
            raise InvalidResponse(f"output {output.name!r} has bytes that are neither true nor false")
    return arrays

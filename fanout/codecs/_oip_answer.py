"""The output tensors of an infer answer, each as JSON or as bytes behind it: the answer decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.codecs._parsing import read
from fanout.codecs._values import Unfit, Wanted, array
from fanout.errors import InvalidReply
from fanout.tensors import dtype_of, unpack

if TYPE_CHECKING:
    from fanout.types import Array, Reply

LENGTH_HEADER = "Inference-Header-Content-Length"


class _Output(NamedTuple):
    name: str
    datatype: str
    shape: list[int]
    size: int | None
    """Bytes behind the JSON; None: the data is in the JSON."""
    data: Any


def tensors(reply: Reply, *, keep: bool) -> dict[str, Array]:
    """The answer's outputs by name, in its order; views of its body where the datatype allows.

    Raises `InvalidReply`: no JSON, values unlike the datatype, or sizes that do not agree.
    """
    head, tail = _split(reply)
    described: list[_Output] = []

    def convert(document: object) -> dict[str, Array]:
        described[:] = _outputs(document)
        return {output.name: _from_json(output, keep=keep) for output in described if output.size is None}

    in_json = read(head, convert, keep=keep)
    assert isinstance(in_json, Mapping)
    return dict(in_json) | _from_bytes([output for output in described if output.size is not None], tail)


def _split(reply: Reply) -> tuple[Reply, memoryview]:
    """The JSON part, and the bytes behind it."""
    told = reply.headers.get(LENGTH_HEADER)
    if told is None:
        return reply, memoryview(b"")
    if not (told.isascii() and told.isdigit() and int(told) <= len(reply.body)):
        raise InvalidReply(f"{LENGTH_HEADER} is {told!r}, but the answer has {len(reply.body)} bytes")
    length = int(told)
    return replace(reply, body=reply.body[:length]), memoryview(reply.body)[length:]


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
        raise Unfit(f"has output {name!r} of the datatype {datatype!r}, which is not known")
    if not isinstance(shape, list) or not all(type(length) is int and length >= 0 for length in shape) or not shape:
        raise Unfit(f"has output {name!r} of the shape {shape!r}, which is none of rows")
    parameters = item.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size < 0):
        raise Unfit(f"has output {name!r} with the binary_data_size {size!r}")
    if size is None and not isinstance(item.get("data"), list):
        raise Unfit(f"has output {name!r} without data")
    return _Output(name, datatype, shape, size, item.get("data"))


def _from_json(output: _Output, *, keep: bool) -> Array:
    wanted = Wanted(dtype_of(output.datatype), keep=keep, nulls=keep)
    try:
        made = array(output.data, wanted)
    except Unfit as error:
        nested = isinstance(output.data[0], list)
        row = error.row if nested or error.row is None else error.row // max(1, prod(output.shape[1:]))
        raise Unfit(f"of output {output.name!r} {error.args[0]}", row=row, flaw=error.flaw) from None
    flat = made.ndim == 1 and made.size == prod(output.shape)
    if not flat and list(made.shape) != output.shape:
        data = f"data of shape {list(made.shape)}"
        raise Unfit(f"has output {output.name!r} of the shape {output.shape} with {data}", flaw="shape")
    return made.reshape(output.shape)


def _from_bytes(outputs: list[_Output], data: memoryview) -> dict[str, Array]:
    told = sum(output.size or 0 for output in outputs)
    if told != len(data):
        raise InvalidReply(f"the answer tells of {told} bytes behind its JSON, but {len(data)} came")
    arrays, at = {}, 0
    for output in outputs:
        part = data[at : at + (output.size or 0)]
        at += len(part)
        try:
            arrays[output.name] = unpack(part, output.datatype, output.shape)
        except ValueError as error:
            size = f"{output.datatype} of shape {output.shape} in {len(part)} bytes"
            raise InvalidReply(f"output {output.name!r} is no {size}: {error}") from None
        # numpy would show any byte as a bool, and later compare it as it pleases.
        if output.datatype == "BOOL" and np.frombuffer(part, np.uint8).max(initial=0) > 1:
            raise InvalidReply(f"output {output.name!r} has bytes that are neither true nor false")
    return arrays

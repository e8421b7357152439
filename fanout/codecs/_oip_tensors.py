"""Write the input tensors of an infer request and read the output tensors of its answer, as JSON or as raw bytes.

Inputs go in the datatype of the model's metadata, and no value changes on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from fanout._escape import is_unicode, shortened
from fanout._lazy import pattern
from fanout.codecs._parsing import invalid, read
from fanout.codecs._rows import native, require_finite, require_numbers, rows_where, texts
from fanout.codecs._slices import Reader, Uncut, around, lists_named
from fanout.codecs._values import Unfit, Wanted, array
from fanout.errors import ConfigError, EncodeError, InvalidResponse
from fanout.exact_json import LIGHT
from fanout.rows import castable, changed_by_cast, exact_digits, without_mask
from fanout.tensors import datatype_of, dtype_of, pack, rounded_to_bfloat16, unpack

if TYPE_CHECKING:
    from fanout.codecs._rows import Fits, Schema
    from fanout.types import Array, Buffer, Response, Tensor

LENGTH_HEADER = "Inference-Header-Content-Length"
# No length in memory has as many digits.
_MOST_DIGITS = 20
# As many as an array of numpy can have.
_MOST_AXES = 64
_LARGE_HEAD = 2**16
# BF16 holds every integer up to 2 to this power, as `exact_digits` gives for the dtypes of numpy.
_BRAIN_DIGITS = 8
# Datatypes whose tensors are no views of the answer.
_CONVERTED = (b"BYTES", b"BF16")
# The datatype most often stands before the data. Where it does not, the answer is not read in slices.
_DATATYPE = pattern(rb'"datatype"[ \t\n\r]*:[ \t\n\r]*"([A-Z0-9]{1,10})"')


class Input(NamedTuple):
    """An input tensor in the datatype in which it is sent."""

    name: str
    datatype: str
    array: Array

    def binary(self) -> tuple[dict[str, Any], Buffer]:
        """The description and the bytes. Raises `EncodeError` for texts that are not Unicode."""
        try:
            data = pack(self.array, self.datatype)
        except UnicodeEncodeError:
            raise EncodeError("half of a surrogate pair is no text", rows=_surrogates(self.array)) from None
        return {**self._described(), "parameters": {"binary_data_size": len(data)}}, data

    def json(self) -> dict[str, Any]:
        """The description with the data. Raises `EncodeError` for NaN, infinity, and bytes that are no text."""
        if self.datatype == "BYTES":
            data: Any = np.array(texts(self.array), object).reshape(-1).tolist()
        else:
            require_finite(self.array)
            data = native(self.array).reshape(-1)
        return {**self._described(), "data": data}

    def _described(self) -> dict[str, Any]:
        return {"name": self.name, "shape": self.array.shape, "datatype": self.datatype}


def fitted(name: str, array: Array, model: Tensor | None) -> Input:
    """Convert ``array`` to the datatype of the model's input, if that is known.

    Raises:
        ConfigError: an unknown datatype.
        EncodeError: rows of another shape than the model's, or of a kind that the datatype cannot hold, such as floats
            for INT64 (these are all alike); or with numbers that it does not hold exactly, or that overflow it.
        InputError: a dtype that the protocol does not have.
    """
    array = without_mask(array, f"input {name!r}")
    is_text = array.dtype.kind in "USTO"
    if not is_text:
        require_numbers(array)
    # An array of bytes is sent as it is; other objects have to be texts.
    elif array.dtype.kind == "O" and not _all_bytes(array):
        array = np.array(texts(array), np.dtypes.StringDType())
    # Without metadata the datatype is that of the array.
    own = "BYTES" if is_text else str(datatype_of(array.dtype))
    if model is None:
        return Input(name, own, array)
    array = _with_axis(array, model)
    datatype = model.datatype or own
    target = dtype_of(datatype)
    if target is None:
        raise ConfigError(f"input {name!r} of the model has the datatype {datatype}, which fanout does not know")
    if is_text != (datatype == "BYTES") or not (is_text or castable(array.dtype, target)):
        remedy = "give it numbers" if is_text else f"convert them first, with .astype({_python_name(target)})"
        raise _mismatch(name, datatype, array, model, remedy)
    if not _shape_fits(array.shape[1:], model):
        raise _mismatch(name, datatype, array, model, _way_to_shape(array, model))
    return Input(name, datatype, array if is_text else _cast(name, array, target, datatype))


def fits(model: Tensor | None) -> Fits:
    """Return a function that is true for rows that the model's input accepts."""

    def check(schema: Schema) -> bool:
        kind, shape = schema
        if model is None:
            return True
        return (kind == "texts") == (model.datatype == "BYTES") and (
            _shape_fits(shape, model) or (shape == () and _has_axis_for_one(model))
        )

    return check


def output_tensors(response: Response, *, keep: bool) -> dict[str, Array]:
    """Read the outputs of an answer: name -> array, in the answer's order; views of its body where the datatype allows.

    Raises `InvalidResponse` for text that is no JSON, values that do not fit the datatype, and sizes that disagree.
    """
    head, tail = _split(response)
    if len(head.body) > LIGHT and not tail and (found := _in_slices(head, keep=keep)) is not None:
        return found
    # Kept beside the converted outputs, because the binary outputs need their descriptions too.
    described: list[_Output] = []

    def convert(document: object) -> dict[str, Array]:
        described[:] = _outputs(document)
        return {output.name: _from_json(output, keep=keep) for output in described if output.size is None}

    in_json = read(head, convert, keep=keep)
    assert isinstance(in_json, Mapping)
    return dict(in_json) | _from_bytes([output for output in described if output.size is not None], tail)


def header_of(response: Response) -> Any:
    """The JSON of an answer that has been read, without the tensors behind it; None where it is large."""
    head, _ = _split(response)
    return None if len(head.body) > LIGHT else head.json()


def is_of_views(response: Response) -> bool:
    """True if all but the bytes of tensors that need no conversion is small."""
    header = response.headers.get(LENGTH_HEADER, "")
    length = int(header) if header.isascii() and header.isdigit() and len(header) < _MOST_DIGITS else _LARGE_HEAD
    return length < _LARGE_HEAD and not any(kind in response.body[:length] for kind in _CONVERTED)


class _Output(NamedTuple):
    name: str
    datatype: str
    shape: list[int]
    size: int | None
    """Number of bytes behind the JSON; None: the data is in the JSON."""
    data: Any
    """A list, or an array that was read in slices."""


def _with_axis(array: Array, model: Tensor) -> Array:
    """One value a row as (rows, 1), where the model has an axis for it."""
    return array.reshape(-1, 1) if array.ndim == 1 and _has_axis_for_one(model) else array


def _has_axis_for_one(model: Tensor) -> bool:
    return model.shape is not None and len(model.shape) == 2 and model.shape[1] in (1, -1)


def _shape_fits(row: tuple[int, ...], model: Tensor) -> bool:
    """True if the model may accept rows of this shape, which an input of a single axis does not state."""
    if model.shape is None or len(model.shape) < 2:
        return True
    wanted = model.shape[1:]
    return len(row) == len(wanted) and all(want in (-1, have) for want, have in zip(wanted, row, strict=True))


def _mismatch(name: str, datatype: str, array: Array, model: Tensor, remedy: str) -> EncodeError:
    """The error for rows that all have another dtype or shape than the model's input."""
    shape = f" of shape {list(model.shape[1:])}" if model.shape is not None and len(model.shape) > 1 else ""
    given = "texts" if array.dtype.kind in "USTO" else f"{array.dtype} numbers"
    row = f"rows of shape {list(array.shape[1:])}" if array.ndim > 1 else "single values a row"
    mismatch = f"wants {datatype} rows{shape}, but was given {given}, {row}"
    return EncodeError(f"input {name!r} of the model {mismatch}: {remedy}", rows=range(len(array)), every_row=True)


def _way_to_shape(array: Array, model: Tensor) -> str:
    assert model.shape is not None
    wanted = list(model.shape[1:])
    if -1 not in wanted and prod(wanted) == prod(array.shape[1:]):
        return f"reshape them first, with .reshape({', '.join(map(str, [-1, *wanted]))})"
    return "give it rows of that shape" + (" (-1: any length)" if -1 in wanted else "")


def _python_name(target: np.dtype[Any]) -> str:
    return "str" if target.kind == "T" else repr(target.name)


def _cast(name: str, array: Array, target: np.dtype[Any], datatype: str) -> Array:
    is_brain = datatype == "BF16"
    if array.dtype == target and not is_brain:
        return array
    with np.errstate(all="ignore"):
        cast = array.astype(target, copy=False)
    held, digits = (rounded_to_bfloat16(cast), _BRAIN_DIGITS) if is_brain else (cast, exact_digits(target))
    if bad := rows_where(changed_by_cast(array, held, digits)):
        raise EncodeError(f"input {name!r} has numbers that {datatype} does not hold", rows=bad)
    return cast


def _all_bytes(array: Array) -> bool:
    return set(map(type, array.ravel().tolist())) == {bytes}


def _surrogates(array: Array) -> list[int]:
    flat = array.reshape(len(array), -1).tolist()
    return [i for i, row in enumerate(flat) if not all(isinstance(text, bytes) or is_unicode(text) for text in row)]


def _in_slices(response: Response, *, keep: bool) -> dict[str, Array] | None:
    """The outputs of a large answer that is all JSON; None if it cannot be cut into slices."""
    body, at = response.body, 0
    arrays: dict[str, tuple[str, Array]] = {}
    places: list[tuple[int, int, str]] = []
    lists = lists_named(body, "data")
    for start in lists:
        # A list of that name within the data of the last output is no data of an output.
        if start < at:  # within the one before
            continue
        datatypes = _DATATYPE.findall(body, max(at, start - _LARGE_HEAD), start)
        if not datatypes or (dtype := dtype_of(datatypes[-1].decode())) is None:
            return None
        wanted = Wanted(dtype, keep=keep, nulls=keep)
        try:
            values, at = Reader(response, partial(array, wanted=wanted), keep=keep).read(start)
        except Uncut:
            return None
        except Unfit as error:
            if places or next(lists, None) is not None:
                return None
            raise invalid(response, Unfit(f"has an output that {error.args[0]}", error_kind=error.error_kind)) from None
        assert isinstance(values, np.ndarray)
        places.append((start, at, mark := uuid4().hex))
        arrays[mark] = datatypes[-1].decode(), values
    try:
        return _with_arrays(around(body, places), arrays) if places else None
    except Uncut:
        return None
    except Unfit as error:
        raise invalid(response, error) from None


def _with_arrays(document: Any, arrays: dict[str, tuple[str, Array]]) -> dict[str, Array]:
    """The outputs of an answer that has the marks of ``arrays`` in place of its data. Raises `Uncut` and `Unfit`."""
    listed = document.get("outputs") if isinstance(document, dict) else None
    for item in listed if isinstance(listed, list) else []:
        data = item.get("data") if isinstance(item, dict) else None
        if isinstance(data, str) and data in arrays:
            datatype, item["data"] = arrays.pop(data)
            if item.get("datatype") != datatype:
                raise Uncut
    if arrays:  # some data is not that of an output
        raise Uncut
    return {output.name: _shaped(output, output.data) for output in _outputs(document)}


def _split(response: Response) -> tuple[Response, memoryview]:
    """The JSON part, and the bytes behind it."""
    header = response.headers.get(LENGTH_HEADER)
    if header is None:
        return response, memoryview(b"")
    is_number = header.isascii() and header.isdigit() and len(header) < _MOST_DIGITS
    if not is_number or int(header) > len(response.body):
        raise InvalidResponse(
            f"{LENGTH_HEADER} is {shortened(header, _MOST_DIGITS)!r}, but the answer has {len(response.body)} bytes"
        )
    length = int(header)
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
        values = array(output.data, wanted)
    except Unfit as error:
        # Data may come flat; the row then follows from the shape.
        nested = isinstance(output.data[0], list)
        row = error.row if nested or error.row is None else error.row // max(1, prod(output.shape[1:]))
        raise Unfit(f"of output {output.name!r} {error.args[0]}", row=row, error_kind=error.error_kind) from None
    return _shaped(output, values)


def _shaped(output: _Output, values: Array) -> Array:
    # The protocol allows flat data and nested data for the same shape.
    flat = values.ndim == 1 and values.size == prod(output.shape)
    if not flat and list(values.shape) != output.shape:
        data = f"data of shape {list(values.shape)}"
        raise Unfit(f"has output {output.name!r} of the shape {output.shape} with {data}", error_kind="shape")
    return values.reshape(output.shape)


def _from_bytes(outputs: list[_Output], data: memoryview) -> dict[str, Array]:
    stated = sum(output.size or 0 for output in outputs)
    if stated != len(data):
        raise InvalidResponse(f"the answer states {stated} bytes behind its JSON, but {len(data)} came")
    arrays, at = {}, 0
    for output in outputs:
        part = data[at : at + (output.size or 0)]
        at += len(part)
        try:
            arrays[output.name] = unpack(part, output.datatype, output.shape)
        except ValueError as error:
            size = f"{output.datatype} of shape {output.shape} in {len(part)} bytes"
            raise InvalidResponse(f"output {output.name!r} is no {size}: {error}") from None
        # numpy takes any byte for a bool, and its comparisons of such bools differ between operations.
        if output.datatype == "BOOL" and np.frombuffer(part, np.uint8).max(initial=0) > 1:
            raise InvalidResponse(f"output {output.name!r} has bytes that are neither true nor false")
    return arrays

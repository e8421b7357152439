"""The Open Inference Protocol over HTTP, with the binary tensor extension: KServe's V2, Triton, MLServer.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError, json_answer, parsed
from fanout.serving.models import UNNAMED, Column, call, jsonable, require_finite, require_model
from fanout.tensors import datatype_of, dtype_of, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fanout.serving.models import Model
    from fanout.types import Array, Buffer, Tensor

VERSION = "1"
LENGTH_HEADER = "Inference-Header-Content-Length"
DEFAULT_OUTPUT = "output"


class OutputTensor(NamedTuple):
    """One output of an answer."""

    name: str
    array: Array
    datatype: str
    binary: bool = False
    """It is written after the JSON, and not into it."""


def server(model: Model, request: ServerRequest) -> ServerResponse:
    """``GET /v2``: the server's name, version and extensions."""
    # Clients that find no extension here send JSON alone.
    extensions = ["binary_tensor_data", "model_configuration"]
    return json_answer({"name": "fanout", "version": VERSION, "extensions": extensions})


def ready(model: Model, request: ServerRequest, *, name: str, version: str | None = None) -> ServerResponse:
    """``GET /v2/models/{name}[/versions/{version}]/ready``, and ``GET /v1/models/{name}``."""
    _require(model, name, version)
    return json_answer({"name": name, "ready": True})


def metadata(model: Model, request: ServerRequest, *, name: str, version: str | None = None) -> ServerResponse:
    """``GET /v2/models/{name}[/versions/{version}]``: inputs and outputs; empty lists where the model declares none."""
    _require(model, name, version)
    document = {"name": name, "versions": [VERSION], "platform": "fanout"}
    return json_answer({**document, "inputs": model.inputs, "outputs": model.outputs})


def config(model: Model, request: ServerRequest, *, name: str, version: str | None = None) -> ServerResponse:
    """``GET /v2/models/{name}[/versions/{version}]/config``, as Triton words it; 404 where the model has no bound."""
    _require(model, name, version)
    if model.max_batch_size is None:
        raise StatusError(404, f"model {name!r} has no configuration: the size of its batches has no bound")
    bound = {"name": name, "platform": "fanout", "max_batch_size": model.max_batch_size}
    inputs, outputs = map(_configured, model.inputs), map(_configured, model.outputs)
    return json_answer({**bound, "input": list(inputs), "output": list(outputs)})


def infer(model: Model, request: ServerRequest, *, name: str, version: str | None = None) -> ServerResponse:
    """``POST /v2/models/{name}[/versions/{version}]/infer``: tensors in, tensors out, each as JSON or binary."""
    _require(model, name, version)
    document, tail = _split(request)
    arrays = read_inputs(model, document, tail)
    # The argument is one array, a list for one text a row, or a dict of arrays for several inputs.
    array = next(iter(arrays.values()))
    argument = array.tolist() if array.dtype.kind == "T" and array.ndim == 1 else array
    outputs = call(model, argument if len(arrays) == 1 else arrays, n_rows := len(array))
    tensors = _selected(model, document, to_tensors(model, outputs))
    return _answer(model, document, tensors, n_rows)


def _require(model: Model, name: str, version: str | None) -> None:
    require_model(model, name)
    if version not in (None, VERSION):
        raise StatusError(404, f"model {name!r} has no version {version!r}, only {VERSION!r}")


def _configured(tensor: Tensor) -> dict[str, Any]:
    # Triton leaves the axis of the rows out, and calls texts strings here alone.
    datatype = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {"name": tensor.name, "data_type": f"TYPE_{datatype}", "dims": (tensor.shape or ())[1:]}


def _split(request: ServerRequest) -> tuple[dict[str, Any], memoryview]:
    """The JSON document and the binary tensors behind it."""
    body, header = memoryview(request.body), request.header(LENGTH_HEADER)
    # Without the header field the whole body is JSON.
    length = len(body)
    if header is not None:
        if not (header.isascii() and header.isdigit() and int(header) <= length):
            raise StatusError(400, f"{LENGTH_HEADER} is {header!r}, but the body has {length} bytes")
        length = int(header)
    document = parsed(bytes(body[:length]))
    if not isinstance(document, dict):
        raise StatusError(400, 'expected a JSON object with "inputs"')
    if not isinstance(document.get("id", ""), str):
        raise StatusError(400, '"id" must be a string')
    return document, body[length:]


def _selected(model: Model, document: Mapping[str, Any], tensors: Mapping[str, OutputTensor]) -> list[OutputTensor]:
    """The outputs asked for, in that order, each knowing whether it goes out as binary."""
    # Triton takes the flag of one output before that of the request.
    default = _flag(document, "binary_data_output", default=False)
    requested = document.get("outputs") or [{"name": name} for name in tensors]
    if not isinstance(requested, list) or not all(isinstance(output, dict) for output in requested):
        raise StatusError(400, '"outputs" must be a list of objects with a "name"')
    selected = []
    for output in requested:
        name = output.get("name")
        tensor = tensors.get(name) if isinstance(name, str) else None
        if tensor is None:
            known = ", ".join(tensors)
            raise StatusError(400, f"unexpected inference output {name!r} for model {model.name!r}: it has {known}")
        selected.append(tensor._replace(binary=_flag(output, "binary_data", default=default)))
    return selected


def _flag(holder: Mapping[str, Any], name: str, *, default: bool) -> bool:
    parameters = holder.get("parameters") or {}
    flag = parameters.get(name, default) if isinstance(parameters, dict) else None
    if not isinstance(flag, bool):
        raise StatusError(400, f'"parameters" must be an object, and "{name}" in it true or false')
    return flag


def _answer(model: Model, document: Mapping[str, Any], tensors: list[OutputTensor], n_rows: int) -> ServerResponse:
    described, buffers = written(model, tensors)
    head: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if "id" in document:
        head["id"] = document["id"]
    answer = json_answer({**head, "outputs": described}, rows=n_rows)
    if not buffers:
        return answer
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(answer.body))}
    return ServerResponse(status=200, headers=headers, body=b"".join([answer.body, *buffers]), rows=n_rows)


def read_inputs(model: Model, document: Mapping[str, Any], tail: memoryview) -> dict[str, Array]:
    """The request's input tensors by name: writable arrays, at least one, all with the same number of rows.

    Raises `StatusError` (400): malformed, another size than the shape says, or not the model's inputs.
    """
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise StatusError(400, 'expected "inputs", a list with at least one tensor')
    arrays: dict[str, Array] = {}
    datatypes: dict[str, str] = {}
    for tensor in inputs:
        name, datatype, shape = _header(tensor)
        # The later one would silently replace the first.
        if name in arrays:
            raise StatusError(400, f"input {name!r} is there twice")
        arrays[name], tail = _array(tensor, name, datatype, shape, tail)
        datatypes[name] = datatype
    # Bytes that no input states mean that client and server disagree about the sizes of all of them.
    if len(tail):
        raise StatusError(400, f"the body has {len(tail)} bytes more than its binary inputs")
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = {name: len(array) for name, array in arrays.items()}
        raise StatusError(400, f"inputs differ in their number of rows: {lengths}")
    _require_known(model, datatypes)
    return arrays


def to_tensors(model: Model, outputs: Mapping[str, Column]) -> dict[str, OutputTensor]:
    """The model's outputs as tensors by name. Raises `StatusError` (500) for a dtype without a data type."""
    # A bare result has no name, but every tensor of the protocol does.
    unnamed = model.outputs[0].name if model.outputs else DEFAULT_OUTPUT
    tensors = {}
    for key, column in outputs.items():
        name = unnamed if key == UNNAMED else key
        is_object = isinstance(column, list) or column.dtype.kind == "O"
        array = _texts(model, name, list(column)) if is_object else np.asarray(column)
        datatype = datatype_of(array.dtype)
        if datatype is None:
            raise StatusError(
                500, f"output {name!r} of model {model.name!r} is of {array.dtype}, which no data type holds"
            )
        tensors[name] = OutputTensor(name, array, datatype)
    return tensors


def written(model: Model, tensors: list[OutputTensor]) -> tuple[list[dict[str, Any]], list[Buffer]]:
    """The JSON descriptions, data included where it is not binary, and the binary tensors in the same order."""
    # Binary tensors can carry NaN; JSON cannot.
    require_finite(model, {tensor.name: tensor.array for tensor in tensors if not tensor.binary})
    described: list[dict[str, Any]] = []
    buffers: list[Buffer] = []
    for tensor in tensors:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape}
        if tensor.binary:
            buffers.append(pack(tensor.array, tensor.datatype))
            entry["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            entry["data"] = jsonable(tensor.array.reshape(-1))
        described.append(entry)
    return described, buffers


def _header(tensor: Any) -> tuple[str, str, list[int]]:
    """Name, data type and shape of an input."""
    if not isinstance(tensor, dict):
        raise StatusError(400, 'every input must be an object with "name", "shape" and "datatype"')
    name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    if not isinstance(name, str):
        raise StatusError(400, 'every input must have a "name"')
    if not isinstance(datatype, str) or dtype_of(datatype) is None:
        raise StatusError(400, f"input {name!r} has no known datatype: {datatype!r}")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n >= 0 for n in shape):
        raise StatusError(400, f'input {name!r}: "shape" must be a list of lengths, the rows first; not {shape!r}')
    return name, datatype, shape


def _array(
    tensor: dict[str, Any], name: str, datatype: str, shape: list[int], tail: memoryview
) -> tuple[Array, memoryview]:
    """One input, and the rest of the binary data."""
    parameters = tensor.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    try:
        if size is None:
            return _from_json(tensor.get("data"), datatype).reshape(shape), tail
        if type(size) is not int or not 0 <= size <= len(tail):
            raise ValueError(f"binary_data_size is {size!r}, but {len(tail)} bytes are left")
        # A copy, since user code may work in place, and the bytes may lie at odd addresses.
        return unpack(bytes(tail[:size]), datatype, shape).copy(), tail[size:]
    except (ValueError, OverflowError) as error:
        raise StatusError(400, f"input {name!r} of shape {shape}: {error}") from None


def _from_json(data: Any, datatype: str) -> Array:
    """JSON data, flat or nested, as a flat array of the data type. Raises ValueError where a value does not fit it."""
    if not isinstance(data, list):
        raise ValueError('"data" is missing, or is not a list')
    dtype = dtype_of(datatype)
    if datatype == "BYTES":
        texts = list(_flat(data))
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("BYTES takes strings alone")
        return np.array(texts, dtype)
    given = np.array(data)
    if given.dtype.kind == "f" and datatype == "UINT64" and all(type(value) is int for value in _flat(data)):
        # numpy promotes a list of integers below and above 2**63 to float64
        given = np.array(list(_flat(data)), object)
    if given.dtype.kind not in _KINDS[datatype[:2]] and given.size:
        raise ValueError(f'"data" does not hold {datatype} values alone')
    return _fitting(given, np.dtype(dtype))


def _fitting(given: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        # numpy wraps integers without a word; floats become infinite.
        cast = given.reshape(-1).astype(dtype)
    fits = np.isfinite(cast) if dtype.kind == "f" else cast == given.reshape(-1)
    if not fits.all():
        raise ValueError(f'"data" holds values that {dtype} cannot')
    return cast


# The numpy kinds that JSON may hold for a data type, by its first two letters.
_KINDS = {"BO": "b", "UI": "iuO", "IN": "iu", "FP": "iuf", "BF": "iuf"}


def _flat(data: Any) -> Iterator[Any]:
    if isinstance(data, list):
        for item in data:
            yield from _flat(item)
    else:
        yield data


def _require_known(model: Model, datatypes: Mapping[str, str]) -> None:
    """Raises `StatusError` (400), worded as Triton does, unless these are the inputs of the model."""
    known = {tensor.name: tensor.datatype for tensor in model.inputs} or datatypes
    for name, datatype in datatypes.items():
        if name not in known:
            takes = ", ".join(known)
            raise StatusError(400, f"unexpected inference input {name!r} for model {model.name!r}: it takes {takes}")
        if datatype != known[name]:
            raise StatusError(400, f"input {name!r} is {datatype}, but model {model.name!r} expects {known[name]}")
    missing = [name for name in known if name not in datatypes]
    if missing:
        raise StatusError(400, f"model {model.name!r} also expects input {missing[0]!r}")


def _texts(model: Model, name: str, items: list[Any]) -> Array:
    if not all(isinstance(item, str) for item in items):
        raise StatusError(500, f"output {name!r} of model {model.name!r} holds neither numbers of one shape nor texts")
    return np.array(items, np.dtypes.StringDType())

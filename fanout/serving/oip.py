"""The Open Inference Protocol over HTTP, with the binary tensor extension: KServe's V2, Triton, MLServer.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError, json_answer, parsed
from fanout.serving.models import call, require_model
from fanout.serving.oip_tensors import OutputTensor, read_inputs, to_tensors, written

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.serving.models import Model, TensorInfo
    from fanout.types import Array

VERSION = "1"
LENGTH_HEADER = "Inference-Header-Content-Length"


def server(model: Model, request: ServerRequest) -> ServerResponse:
    """``GET /v2``: the server's name, version and extensions."""
    extensions = ["binary_tensor_data", "model_configuration"]
    return json_answer({"name": "fanout", "version": VERSION, "extensions": extensions})


def health(model: Model, request: ServerRequest) -> ServerResponse:
    """``GET /v2/health/ready`` and ``/v2/health/live``."""
    return json_answer({})


def ready(model: Model, request: ServerRequest, *, name: str, version: str | None = None) -> ServerResponse:
    """``GET /v2/models/{name}[/versions/{version}]/ready``."""
    _require(model, name, version)
    return json_answer({"name": name, "ready": True})


def metadata(model: Model, request: ServerRequest, *, name: str, version: str | None = None) -> ServerResponse:
    """``GET /v2/models/{name}[/versions/{version}]``: inputs and outputs; empty lists where the model declares none."""
    _require(model, name, version)
    inputs, outputs = map(_described, model.inputs), map(_described, model.outputs)
    document = {"name": name, "versions": [VERSION], "platform": "fanout"}
    return json_answer({**document, "inputs": list(inputs), "outputs": list(outputs)})


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
    n_rows = len(next(iter(arrays.values())))
    outputs = call(model, _argument(arrays), n_rows)
    tensors = _selected(model, document, to_tensors(model, outputs))
    return _answer(model, document, tensors, n_rows)


def _require(model: Model, name: str, version: str | None) -> None:
    require_model(model, name)
    if version not in (None, VERSION):
        raise StatusError(404, f"model {name!r} has no version {version!r}, only {VERSION!r}")


def _described(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _configured(tensor: TensorInfo) -> dict[str, Any]:
    # Triton leaves the axis of the rows out, and calls texts strings here alone.
    datatype = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {"name": tensor.name, "data_type": f"TYPE_{datatype}", "dims": tensor.shape[1:]}


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


def _argument(arrays: Mapping[str, Array]) -> Any:
    """The argument of the function: one array, a list for one text a row, a dict of arrays for several inputs."""
    if len(arrays) > 1:
        return dict(arrays)
    array = next(iter(arrays.values()))
    return array.tolist() if array.dtype.kind == "T" and array.ndim == 1 else array


def _selected(model: Model, document: Mapping[str, Any], tensors: Mapping[str, OutputTensor]) -> list[OutputTensor]:
    """The outputs asked for, in that order, each knowing whether it goes out as binary."""
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
        selected.append(tensor.as_binary(_flag(output, "binary_data", default=default)))
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

"""KServe's V1 protocol, which is TensorFlow Serving's row format, and the same without a model's name in the path.

https://kserve.github.io/website/latest/modelserving/data_plane/v1_protocol/
https://www.tensorflow.org/tfx/serving/api_rest#predict_api
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.serving.exchange import ServerRequest, ServerResponse, StatusError, json_answer
from fanout.serving.models import call, jsonable, require_finite, require_model, rows_of

if TYPE_CHECKING:
    from fanout.serving.models import Model


def ready(model: Model, request: ServerRequest, *, name: str) -> ServerResponse:
    """``GET /v1/models/{name}``: the model is loaded."""
    require_model(model, name)
    return json_answer({"name": name, "ready": True})


def predict(model: Model, request: ServerRequest, *, name: str) -> ServerResponse:
    """``POST /v1/models/{name}:predict``: ``{"instances": [...]}`` -> ``{"predictions": [...]}``, one a row."""
    require_model(model, name)
    body = request.json()
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list):
        raise StatusError(400, f'expected {{"instances": [...]}} with one entry a row, not {_shape(body)}')
    return json_answer({"predictions": _predictions(model, instances)}, rows=len(instances))


def predict_bare(model: Model, request: ServerRequest) -> ServerResponse:
    """``POST /``: as `predict`, or a bare JSON list of rows, which is answered by a bare list."""
    body = request.json()
    if isinstance(body, list):
        return json_answer(_predictions(model, body), rows=len(body))
    if isinstance(body, dict) and isinstance(body.get("instances"), list):
        return predict(model, request, name=model.name)
    raise StatusError(400, f'expected {{"instances": [...]}} or a JSON list, with one entry a row, not {_shape(body)}')


def _predictions(model: Model, instances: list[Any]) -> Any:
    outputs = call(model, rows_of(instances), len(instances))
    require_finite(model, outputs)
    columns = [jsonable(column) for column in outputs.values()]
    # TensorFlow Serving: a single output stands alone, several make an object a row.
    if len(columns) == 1:
        return columns[0]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _shape(body: Any) -> str:
    if not isinstance(body, dict):
        return f"a JSON {_JSON_NAMES[type(body)]}"
    if "instances" in body:
        return f'"instances" of type {_JSON_NAMES[type(body["instances"])]}'
    return f"an object with the keys {sorted(body)}"


_JSON_NAMES = {
    dict: "object",
    list: "list",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}

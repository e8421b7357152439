"""Corrupt responses with status 200: the correct response, changed in one place."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.serving.exchange import ServerRequest, ServerResponse

Corruption: TypeAlias = "Callable[[ServerResponse], ServerResponse]"
"""Gives a corrupt response for a correct one."""

_TOKEN = "\x00fault\x00"  # noqa: S105 - replaced in the encoded JSON by a literal that orjson cannot write
_LENGTH_HEADER = "inference-header-content-length"


def in_json(request: ServerRequest) -> ServerRequest:
    """``request``, changed to ask for a response without binary tensors, which can be corrupted as JSON."""
    length = request.header(_LENGTH_HEADER)
    try:
        end = int(length) if length else len(request.body)
        document = orjson.loads(request.body[:end])
    except ValueError:
        return request
    if not isinstance(document, dict) or "inputs" not in document:
        return request
    # Without their parameters, which ask for binary tensors.
    document["outputs"] = [{"name": output["name"]} for output in document.get("outputs", ())]
    document.pop("parameters", None)
    json = orjson.dumps(document)
    headers = {name: value for name, value in request.headers.items() if name.lower() != _LENGTH_HEADER}
    headers[_LENGTH_HEADER] = str(len(json))
    return replace(request, headers=headers, body=json + request.body[end:])


def with_rows(edit: Callable[[list[Any]], list[Any]]) -> Corruption:
    """Change the list of rows, in any of the protocols."""

    def corrupt(response: ServerResponse) -> ServerResponse:
        document = orjson.loads(response.body)
        return replace(response, body=orjson.dumps(_edited(document, edit), option=orjson.OPT_SERIALIZE_NUMPY))

    return corrupt


def with_value(literal: str) -> Corruption:
    """Replace one value of the middle row by ``literal``."""

    def edit(rows: list[Any]) -> list[Any]:
        middle = len(rows) // 2
        return [*rows[:middle], _marked(rows[middle]), *rows[middle + 1 :]]

    def corrupt(response: ServerResponse) -> ServerResponse:
        marked = with_rows(edit)(response)
        return replace(marked, body=marked.body.replace(orjson.dumps(_TOKEN), literal.encode()))

    return corrupt


def ragged(rows: list[Any]) -> list[Any]:
    """Make one row longer than the others."""
    middle = len(rows) // 2
    row = rows[middle]
    if isinstance(row, dict):
        # The number of the row stays, or the fault would be another one.
        longer: Any = {name: _longer(value) if name != "index" else value for name, value in row.items()}
    else:
        longer = _longer(row)
    return [*rows[:middle], longer, *rows[middle + 1 :]]


def permuted_ids(rows: list[Any]) -> list[Any]:
    """Reverse rows that carry their number; leave others in place."""
    return rows[::-1] if _numbered(rows) else rows


def duplicate_ids(rows: list[Any]) -> list[Any]:
    """Give the last row the number of the first; leave rows without a number unchanged."""
    return [*rows[:-1], {**rows[-1], "index": rows[0]["index"]}] if _numbered(rows) and len(rows) > 1 else rows


def other_body(body: bytes, content_type: str) -> Corruption:
    """Replace the whole body."""

    def corrupt(response: ServerResponse) -> ServerResponse:
        return replace(response, body=body, headers={"Content-Type": content_type})

    return corrupt


def first_half(response: ServerResponse) -> ServerResponse:
    """Cut the body in half, with a framing that fits the half."""
    return replace(response, body=response.body[: len(response.body) // 2])


def zipped(change: Callable[[bytes], bytes]) -> Corruption:
    """Compress the body, then change the compressed bytes."""

    def corrupt(response: ServerResponse) -> ServerResponse:
        return labelled_gzip(replace(response, body=change(gzip.compress(response.body, 1))))

    return corrupt


def labelled_gzip(response: ServerResponse) -> ServerResponse:
    """Label the unchanged body as gzip."""
    return replace(response, headers={**response.headers, "Content-Encoding": "gzip"})


def _edited(document: Any, edit: Callable[[list[Any]], list[Any]]) -> Any:
    if isinstance(document, list):
        return edit(document)
    for name in ("predictions", "data", "choices"):
        if isinstance(document.get(name), list):
            return {**document, name: edit(document[name])}
    outputs = document.get("outputs")
    if isinstance(outputs, list) and outputs:
        return {**document, "outputs": [_edited_tensor(output, edit) for output in outputs]}
    return document


def _edited_tensor(tensor: dict[str, Any], edit: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    n_rows, *shape = tensor["shape"]
    rows = edit(np.array(tensor["data"], object).reshape(n_rows, *shape).tolist())
    return {**tensor, "shape": [len(rows), *shape], "data": rows}


def _marked(row: Any) -> Any:
    if isinstance(row, dict):
        # Rows of the OpenAI APIs have other fields before the value.
        name = next((known for known in ("embedding", "message", "content") if known in row), next(iter(row)))
        value = row[name]
        return {**row, name: _TOKEN if isinstance(value, str) else _marked(value)}
    return [_marked(row[0]), *row[1:]] if isinstance(row, list) and row else _TOKEN


def _longer(value: Any) -> Any:
    if isinstance(value, str):
        return value * 2
    return [*value, value[-1]] if isinstance(value, list) and value else [value, value]


def _numbered(rows: list[Any]) -> bool:
    return all(isinstance(row, dict) and "index" in row for row in rows)

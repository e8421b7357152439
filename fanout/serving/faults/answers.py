"""Answers with status 200 that are wrong in what they say: the right answer, spoiled in one place."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.serving.exchange import ServerRequest, ServerResponse

_TOKEN = "\x00fault\x00"  # noqa: S105 - stands in the JSON for what JSON cannot say
_LENGTH_HEADER = "inference-header-content-length"


def in_json(request: ServerRequest) -> ServerRequest:
    """``request``, asking for an answer without binary tensors, so that it can be spoiled as JSON."""
    length = request.header(_LENGTH_HEADER)
    try:
        end = int(length) if length else len(request.body)
        document = orjson.loads(request.body[:end])
    except ValueError:
        return request
    if not isinstance(document, dict) or "inputs" not in document:
        return request
    document["outputs"] = [{"name": output["name"]} for output in document.get("outputs", ())]
    document.pop("parameters", None)
    json = orjson.dumps(document)
    headers = {name: value for name, value in request.headers.items() if name.lower() != _LENGTH_HEADER}
    headers[_LENGTH_HEADER] = str(len(json))
    return replace(request, headers=headers, body=json + request.body[end:])


def with_rows(edit: Callable[[list[Any]], list[Any]]) -> Callable[[ServerResponse], ServerResponse]:
    """A spoiler that changes the list of rows, whatever protocol the answer is in."""

    def spoil(answer: ServerResponse) -> ServerResponse:
        document = orjson.loads(answer.body)
        return replace(answer, body=orjson.dumps(_edited(document, edit), option=orjson.OPT_SERIALIZE_NUMPY))

    return spoil


def with_value(literal: str) -> Callable[[ServerResponse], ServerResponse]:
    """A spoiler that puts ``literal`` in the place of one value of the row in the middle."""

    def edit(rows: list[Any]) -> list[Any]:
        middle = len(rows) // 2
        return [*rows[:middle], _marked(rows[middle]), *rows[middle + 1 :]]

    def spoil(answer: ServerResponse) -> ServerResponse:
        marked = with_rows(edit)(answer)
        return replace(marked, body=marked.body.replace(orjson.dumps(_TOKEN), literal.encode()))

    return spoil


def ragged(rows: list[Any]) -> list[Any]:
    """One row is longer than the others."""
    middle = len(rows) // 2
    row = rows[middle]
    if isinstance(row, dict):
        longer: Any = {name: _longer(value) if name != "index" else value for name, value in row.items()}
    else:
        longer = _longer(row)
    return [*rows[:middle], longer, *rows[middle + 1 :]]


def permuted_ids(rows: list[Any]) -> list[Any]:
    """Rows that carry their number come in another order; others stay where they are."""
    return rows[::-1] if _numbered(rows) else rows


def duplicate_ids(rows: list[Any]) -> list[Any]:
    """The last row carries the number of the first; rows without a number stay as they are."""
    return [*rows[:-1], {**rows[-1], "index": rows[0]["index"]}] if _numbered(rows) and len(rows) > 1 else rows


def other_body(body: bytes, content_type: str) -> Callable[[ServerResponse], ServerResponse]:
    """A spoiler that says something else altogether."""

    def spoil(answer: ServerResponse) -> ServerResponse:
        return replace(answer, body=body, headers={"Content-Type": content_type})

    return spoil


def first_half(answer: ServerResponse) -> ServerResponse:
    """The body breaks off, and its framing says that this is all."""
    return replace(answer, body=answer.body[: len(answer.body) // 2])


def zipped(change: Callable[[bytes], bytes]) -> Callable[[ServerResponse], ServerResponse]:
    """A spoiler that compresses the body, then changes the compressed bytes."""

    def spoil(answer: ServerResponse) -> ServerResponse:
        return labelled_gzip(replace(answer, body=change(gzip.compress(answer.body, 1))))

    return spoil


def labelled_gzip(answer: ServerResponse) -> ServerResponse:
    """The body as it is, said to be gzip."""
    return replace(answer, headers={**answer.headers, "Content-Encoding": "gzip"})


def wrong_crc(data: bytes) -> bytes:
    """Compressed data whose check sum does not hold."""
    return data[:-8] + bytes([data[-8] ^ 0xFF]) + data[-7:]


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

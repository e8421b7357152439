"""What would be sent, and to what: told before any row is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fanout.engine import encode, fitted
from fanout.errors import EncodeError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codecs.base import Codec
    from fanout.engine import Chunker, ChunkTask, EndpointGroup
    from fanout.limits import Cost
    from fanout.types import ModelInfo, Rows, Tensor, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a client knows of its model, and what its first request would carry."""

    model: ModelInfo | None
    """None where the codec does not ask the server, or the server does not tell."""

    max_rows: int | None
    """Most rows that the model, or its API, takes in one request; None: no bound is known."""

    chunk_rows: int
    """Rows in one request: the client's, cut to that bound."""

    tensors: tuple[Tensor, ...]
    """What the first request carries, where its format has tensors."""

    body_bytes: int | None
    """Length of its body; None where none of its rows can be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a run over some rows would send, if nothing has to be sent twice."""

    rows: int
    unsendable: int
    """Rows that the wire format cannot express: they fail without a request."""

    chunk_rows: int
    """Rows in one request."""

    chunks: int
    """Requests with rows."""

    metadata_requests: int
    """Requests before them, by which the codec learns about the model."""

    body_bytes: int
    """Of all requests together, headers not counted."""


async def surveyed(
    chunker: Chunker,
    codec: Codec,
    group: EndpointGroup,
    metadata_requests: int,
    on_request: Callable[[Cost], None] | None = None,
) -> Survey:
    """Encode all of ``chunker`` with a prepared codec. Raises `InputError`, and what the input does."""
    chunker.limit(codec.max_rows or chunker.chunk_rows)
    chunks, body_bytes = 0, 0
    asked = 0 if chunker.left == 0 else metadata_requests  # a run over nothing asks nobody
    failed: list[int] = []
    told = on_request or (lambda _: None)
    for _ in range(asked):
        told(group.cost(None))

    try:
        while (taken := await chunker.take()) is not None:
            if (task := _encoded(taken, chunker, codec, lambda lost, _: failed.append(lost.n))) is not None:
                assert task.payload is not None
                chunks, body_bytes = chunks + 1, body_bytes + task.payload.nbytes
                told(group.cost(task))
            await asyncio.sleep(0)  # a signal may want to end it
    finally:
        await chunker.close()
    return Survey(
        rows=chunker.position,
        unsendable=sum(failed),
        chunk_rows=chunker.chunk_rows,
        chunks=chunks,
        metadata_requests=asked,
        body_bytes=body_bytes,
    )


async def previewed(chunker: Chunker, codec: Codec) -> Preview:
    """Encode the first chunk of ``chunker`` with a codec that has learnt what it can. Raises `InputError`."""
    chunker.limit(codec.max_rows or chunker.chunk_rows)
    try:
        taken = await chunker.take()
    finally:
        await chunker.close()

    task = None if taken is None else _encoded(taken, chunker, codec, lambda *_: None)
    if taken is not None and task is None:
        _require_sendable_form(taken.rows, codec)
    return Preview(
        model=codec.describe(),
        max_rows=codec.max_rows,
        chunk_rows=chunker.chunk_rows,
        tensors=() if task is None else codec.tensors(task.rows),
        body_bytes=None if task is None or task.payload is None else task.payload.nbytes,
    )


def _encoded(
    task: ChunkTask, chunker: Chunker, codec: Codec, fail: Callable[[ChunkTask, Verdict], None]
) -> ChunkTask | None:
    """What of ``task`` would be sent in one request, with its payload; None where no row can be."""

    def made(task: ChunkTask) -> bool:
        return encode(task, codec, lambda payload: payload, fail, uniform=chunker.uniform)

    if chunker.packing is not None:
        return fitted(task, chunker, chunker.packing, made)
    return task if made(task) else None


def _require_sendable_form(rows: Rows, codec: Codec) -> None:
    """Raises `InputError` where rows that cannot be sent have a form that no row of an array could have."""
    try:
        codec.encode(rows)
    except EncodeError as error:
        if error.every_row:
            raise InputError(error.reason) from None

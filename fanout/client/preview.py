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
    feed: Chunker,
    codec: Codec,
    link: EndpointGroup,
    metadata_requests: int,
    on_request: Callable[[Cost], None] | None = None,
) -> Survey:
    """Encode all of ``feed`` with a codec that has learnt what it can. Raises `InputError`, and what the input does."""
    feed.limit(codec.max_rows or feed.chunk_rows)
    chunks, body_bytes = 0, 0
    asked = 0 if feed.left == 0 else metadata_requests  # a run over nothing asks nobody
    failed: list[int] = []
    told = on_request or (lambda _: None)
    for _ in range(asked):
        told(link.cost(None))

    try:
        while (taken := await feed.take()) is not None:
            if (work := _encoded(taken, feed, codec, lambda lost, _: failed.append(lost.n))) is not None:
                assert work.payload is not None
                chunks, body_bytes = chunks + 1, body_bytes + work.payload.nbytes
                told(link.cost(work))
            await asyncio.sleep(0)  # a signal may want to end it
    finally:
        await feed.close()
    return Survey(
        rows=feed.position,
        unsendable=sum(failed),
        chunk_rows=feed.chunk_rows,
        chunks=chunks,
        metadata_requests=asked,
        body_bytes=body_bytes,
    )


async def previewed(feed: Chunker, codec: Codec) -> Preview:
    """Encode the first chunk of ``feed`` with a codec that has learnt what it can. Raises `InputError`."""
    feed.limit(codec.max_rows or feed.chunk_rows)
    try:
        taken = await feed.take()
    finally:
        await feed.close()

    work = None if taken is None else _encoded(taken, feed, codec, lambda *_: None)
    if taken is not None and work is None:
        _require_sendable_form(taken.rows, codec)
    return Preview(
        model=codec.describe(),
        max_rows=codec.max_rows,
        chunk_rows=feed.chunk_rows,
        tensors=() if work is None else codec.tensors(work.rows),
        body_bytes=None if work is None or work.payload is None else work.payload.nbytes,
    )


def _encoded(
    work: ChunkTask, feed: Chunker, codec: Codec, fail: Callable[[ChunkTask, Verdict], None]
) -> ChunkTask | None:
    """What of ``work`` would be sent in one request, with its payload; None where no row can be."""

    def made(work: ChunkTask) -> bool:
        return encode(work, codec, lambda payload: payload, fail, uniform=feed.uniform)

    if feed.packing is not None:
        return fitted(work, feed, feed.packing, made)
    return work if made(work) else None


def _require_sendable_form(rows: Rows, codec: Codec) -> None:
    """Raises `InputError` where rows that cannot be sent have a form that no row of an array could have."""
    try:
        codec.encode(rows)
    except EncodeError as error:
        if error.alike:
            raise InputError(error.reason) from None

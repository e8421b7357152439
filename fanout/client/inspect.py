"""Inspection: the model behind an endpoint and the requests for some rows, found out without sending a row."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fanout.engine import Encoder
from fanout.errors import EncodeError, InputError
from fanout.limits.spending import output_limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.client.rows_to_send import RowsToSend
    from fanout.codecs.base import Codec
    from fanout.engine import Chunker, ChunkTask, EndpointGroup
    from fanout.limits import Cost
    from fanout.types import ModelInfo, Rows, Tensor, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The model of a client, and the content of its first request."""

    model: ModelInfo | None
    """None if the codec requests no metadata, or the server returns none."""

    max_rows: int | None
    """Maximum rows in one request of the model or its API; None: no bound is known."""

    chunk_rows: int
    """Rows in one request: the client's ``chunk_rows``, cut to ``max_rows``."""

    tensors: tuple[Tensor, ...]
    """Content of the first request, if its format has tensors."""

    body_bytes: int | None
    """Length of its body; None if none of its rows can be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The requests that a run over some rows sends if every first attempt succeeds."""

    rows: int
    unsendable: int
    """Rows that the wire format cannot express. They fail without a request."""

    cached: int = 0
    """Rows whose answers are in the cache."""

    shared: int = 0
    """Rows whose request is that of a row before them, if these share one."""

    chunk_rows: int
    """Rows in one request."""

    chunks: int
    """Requests with rows."""

    metadata_requests: int
    """Requests for the model's metadata, before those with rows."""

    body_bytes: int
    """Sum over all requests, without headers."""

    input_tokens: float | None = None
    """Tokens of all requests, counted or estimated; None without prices and limits of tokens."""

    counts_tokens: bool = False
    """The input tokens are counted."""

    most_output_tokens: int | None = None
    """Bound of the tokens of all answers, as the requests give it; None if one gives none."""


async def preview_rows(chunker: Chunker, codec: Codec) -> Preview:
    """Encode the first chunk of ``chunker`` with a codec that knows its model. Raises `InputError`."""
    # The model may accept fewer rows than the client asks for.
    chunker.bounds.limit(codec.max_rows or chunker.bounds.rows)
    try:
        first = await chunker.get()
    finally:
        await chunker.close()

    # Single rows that cannot be sent are no fault of the job: a run reports them as failed.
    task = None if first is None else _encoded(first, chunker, codec, lambda *_: None)
    if first is not None and task is None:
        _require_sendable_form(first.rows, codec)
    return Preview(
        model=codec.describe(),
        max_rows=codec.max_rows,
        chunk_rows=chunker.bounds.rows,
        tensors=() if task is None else codec.tensors(task.rows),
        body_bytes=None if task is None or task.payload is None else task.payload.nbytes,
    )


async def survey_rows(
    chunker: Chunker,
    codec: Codec,
    group: EndpointGroup,
    metadata_requests: int,
    on_request: Callable[[Cost], None] | None = None,
    to_send: RowsToSend | None = None,
) -> Survey:
    """Encode all of ``chunker`` with a codec that knows its model. Raises `InputError`, and errors of the input.

    ``on_request`` is called with the cost of each request, in the order of sending. ``to_send`` is the origin of the
    rows of ``chunker`` where these are not all rows.
    """
    chunker.bounds.limit(codec.max_rows or chunker.bounds.rows)
    chunks, body_bytes, input_tokens = 0, 0, 0.0
    most_output: int | None = 0
    unsendable: list[int] = []
    on_request = on_request or (lambda _: None)
    # A run over no rows requests no metadata.
    remaining = chunker.remaining if to_send is None else to_send.remaining
    metadata_requests = 0 if remaining == 0 else metadata_requests
    for _ in range(metadata_requests):
        on_request(group.costs.of(None))

    try:
        # Chunk by chunk, so that the memory does not grow with the input.
        while (task := await chunker.get()) is not None:
            sendable = _encoded(task, chunker, codec, lambda failed, _: unsendable.append(failed.n))
            if sendable is not None:
                assert sendable.payload is not None
                chunks, body_bytes = chunks + 1, body_bytes + sendable.payload.nbytes
                on_request(group.costs.of(sendable))
                if group.accounts.common is not None:
                    input_tokens += group.accounts.common.estimator.input_tokens(sendable)
                    limit = output_limit(sendable)
                    most_output = None if most_output is None or limit is None else most_output + limit
            await asyncio.sleep(0)  # lets the handler of a signal run
    finally:
        await chunker.close()
    return Survey(
        rows=chunker.position if to_send is None else to_send.n_rows,
        unsendable=sum(unsendable),
        cached=0 if to_send is None else to_send.cached,
        shared=0 if to_send is None else to_send.shared,
        chunk_rows=chunker.bounds.rows,
        chunks=chunks,
        metadata_requests=metadata_requests,
        body_bytes=body_bytes,
        input_tokens=None if group.accounts.common is None else input_tokens,
        counts_tokens=group.costs.meter.counts,
        most_output_tokens=None if group.accounts.common is None else most_output,
    )


def _encoded(
    task: ChunkTask, chunker: Chunker, codec: Codec, fail: Callable[[ChunkTask, Verdict], None]
) -> ChunkTask | None:
    """Return the part of ``task`` that goes into one request, with its payload; None if no row can be sent."""
    encoder = Encoder(codec, None, fail, uniform=chunker.uniform)
    # Bounds in bytes and tokens are known only after encoding.
    if chunker.bounds.packing is not None:
        return encoder.fitted(task, chunker.unget, chunker.bounds.packing)
    return task if encoder.encode(task) else None


def _require_sendable_form(rows: Rows, codec: Codec) -> None:
    """Raise `InputError` if a fault that all rows share (dtype, shape, names) makes them unsendable."""
    try:
        codec.encode(rows)
    except EncodeError as error:
        if error.every_row:
            raise InputError(error.reason) from None

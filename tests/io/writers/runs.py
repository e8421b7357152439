"""Made-up runs to feed sinks with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.io.writers.opening import open_sink
from fanout.results import ChunkResult, Failure, Result, Statistics

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.io.writers.base import Checkpoint, FileSink
    from fanout.types import Array, Chunk


def failure(start: int, stop: int, reason: str = "HTTP 422: no") -> Failure:
    return Failure(start=start, stop=stop, reason=reason, status=422, attempts=2, endpoint="http://host/")


def done(start: int, outputs: Mapping[str, Array] | Array, **extra: object) -> ChunkResult:
    outputs = outputs if isinstance(outputs, Mapping) else {"": outputs}
    return ChunkResult(start=start, stop=start + len(next(iter(outputs.values()))), outputs=outputs, **extra)


def result(n_rows: int, failures: Iterable[Failure] = (), pending: Iterable[Chunk] = ()) -> Result:
    ok = np.ones(n_rows, bool)
    absent: list[Failure | Chunk] = [*failures, *pending]
    for rows in absent:
        ok[rows.start : rows.stop] = False
    return Result(outputs=None, ok=ok, failures=tuple(failures), pending=tuple(pending), stats=Statistics())


def opened(path: Path, n_rows: int | None, checkpoint: Checkpoint | None = None) -> FileSink:
    """A sink ready to be written to."""
    sink = open_sink(path)
    sink.open(n_rows, checkpoint)
    return sink


def publish(sink: FileSink, account: Result) -> None:
    """Finish a sink and give its files their names."""
    sink.finish(account).carry_out()


def write_all(path: Path, chunks: Iterable[ChunkResult], account: Result) -> FileSink:
    """Write the chunks one after the other and finish."""
    sink = opened(path, len(account.ok))
    for chunk in chunks:
        sink.write([accounted(chunk, account)])
    publish(sink, account)
    sink.close()
    return sink


def accounted(chunk: ChunkResult, account: Result) -> ChunkResult:
    """``chunk`` with the failures and pending rows of its run."""

    def inside(rows: Iterable[Failure | Chunk]) -> tuple[Any, ...]:
        cut = (replace(r, start=max(r.start, chunk.start), stop=min(r.stop, chunk.stop)) for r in rows)
        return tuple(r for r in cut if r.start < r.stop)

    return replace(chunk, failures=inside(account.failures), pending=inside(account.pending))


def cut(array: Array, cuts: Iterable[int]) -> list[ChunkResult]:
    """The array as chunks that end at ``cuts``."""
    edges = sorted({0, len(array), *(c for c in cuts if c < len(array))})
    return [done(a, array[a:b]) for a, b in pairwise(edges)]

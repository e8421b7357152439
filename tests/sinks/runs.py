"""Made-up runs to feed sinks with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from fanout.sinks import open_sink
from fanout.types import Array, Chunk, Done, Failure, Result, Statistics

if TYPE_CHECKING:
    from pathlib import Path


def failure(start: int, stop: int, reason: str = "HTTP 422: no") -> Failure:
    return Failure(start=start, stop=stop, reason=reason, status=422, attempts=2, endpoint="http://host/")


def done(start: int, outputs: Mapping[str, Array] | Array, **extra: object) -> Done:
    outputs = outputs if isinstance(outputs, Mapping) else {"": outputs}
    return Done(start=start, stop=start + len(next(iter(outputs.values()))), outputs=outputs, **extra)


def result(n_rows: int, failures: Iterable[Failure] = (), pending: Iterable[Chunk] = ()) -> Result:
    ok = np.ones(n_rows, bool)
    for rows in (*failures, *pending):
        ok[rows.start : rows.stop] = False
    return Result(outputs=None, ok=ok, failures=tuple(failures), pending=tuple(pending), stats=Statistics())


def write_all(path: Path, chunks: Iterable[Done], account: Result) -> object:
    """Write the chunks one after the other and finish."""
    sink = open_sink(path, len(account.ok))
    for chunk in chunks:
        sink.write([chunk])
    sink.finish(account)
    sink.close()
    return sink


def cut(array: Array, cuts: Iterable[int]) -> list[Done]:
    """The array as chunks that end at ``cuts``."""
    edges = sorted({0, len(array), *(c for c in cuts if c < len(array))})
    return [done(a, array[a:b]) for a, b in pairwise(edges)]

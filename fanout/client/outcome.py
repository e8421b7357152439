"""The end of a run, as its caller sees it: a value, or an exception that carries everything that succeeded.

`map`, `stream` and `run` end for all rows at once. In `predict`, each caller has one row of a shared batch, and gets a
value or an exception of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.engine import RowStatus, Stop
from fanout.errors import ConfigError, InputError, Interrupted, RowsFailed, RunStopped
from fanout.results import Result, Statistics, unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from fanout.engine import Batch, Chunker
    from fanout.results import ChunkResult
    from fanout.types import Array, Values

_FAILURES_SHOWN = 3


def require_on_error(on_error: str) -> None:
    """Raise `ConfigError` unless ``on_error`` is ``"raise"`` or ``"keep"``."""
    if on_error not in ("raise", "keep"):
        raise ConfigError(f'on_error must be "raise" or "keep", not {on_error!r}', key="on_error")


def values_or_result(result: Result, on_error: str) -> Any:
    """Return the values and raise `RowsFailed` if any row failed; for ``on_error="keep"`` return ``result``."""
    if on_error == "keep":
        return result
    if result.failures:
        raise rows_failed(result)
    return result.values


def pending_row(stats: Statistics | None = None) -> Result:
    """Return the result of a single row that has no answer."""
    return RowStatus().result(1, stats or Statistics(rows=1))


def final_stop(stop: Stop | None, violation: str | None) -> Stop | None:
    """Return the reason why a run counts as stopped. ``violation`` is a broken invariant of its account of rows."""
    if violation is None:
        return stop
    # An account that does not add up is a bug of fanout, and more urgent than any other reason.
    earlier = f" (the run was stopped: {stop.reason})" if stop is not None else ""
    return Stop("internal", f"internal error of fanout, please report it: {violation}{earlier}")


def raise_if_stopped(stop: Stop | None, result: Result) -> None:
    """Raise the exception for ``stop``; do nothing without one."""
    if stop is not None:
        raise stopped(stop, result)


def stopped(stop: Stop, result: Result) -> RunStopped | Interrupted:
    """Return `RunStopped` with ``result``, or `Interrupted` if a `KeyboardInterrupt` stopped the run."""
    # A KeyboardInterrupt inside a callback stops the run like an error, but must surface as an interrupt.
    kind = Interrupted if isinstance(stop.cause, KeyboardInterrupt) else RunStopped
    error = kind(stop.reason, kind=stop.kind, result=result)
    error.__cause__ = stop.cause
    return error


def with_result(error: Exception, result: Result) -> Exception:
    """Return an exception of the input, the codec or ``headers=``, with the answers so far as its ``result``."""
    vars(error).setdefault("result", result)
    return error


def rows_failed(result: Result) -> RowsFailed:
    """Return the exception for a result with failures."""
    failed = int(len(result.ok) - result.ok.sum())
    shown = "; ".join(str(failure) for failure in result.failures[:_FAILURES_SHOWN])
    more = len(result.failures) - _FAILURES_SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    text = f"{failed:,} of {len(result.ok):,} rows failed: {shown}{rest} (the others are in .result)"
    return RowsFailed(text, result=result)


def settle_callers(batch: Batch, done: ChunkResult, statistics: Callable[[], Statistics]) -> None:
    """Give each caller of `predict` with a row in ``done`` its value or exception; callers of pending rows wait on."""
    without_answer = {row for rows in done.pending for row in range(rows.start, rows.stop)}
    for failure in done.failures:
        attempts = batch.attempts + failure.attempts
        for row in range(failure.start, failure.stop):
            without_answer.add(row)
            # Each caller sees its own row as row 0: positions in the batch would reveal other callers' rows.
            alone = replace(failure, start=0, stop=1, attempts=attempts)
            ok = np.zeros(1, bool)
            result = Result(outputs=None, ok=ok, failures=(alone,), pending=(), stats=statistics())
            batch.answer(row, rows_failed(result))
    if done.outputs is not None:
        answer_callers(batch, done.outputs, done.start, without_answer)


def answer_callers(batch: Batch, outputs: Values, start: int = 0, without_answer: Container[int] = ()) -> None:
    """Give the callers of `predict` from row ``start`` on their values, but for those ``without_answer``."""
    for place in range(len(next(iter(outputs.values())))):
        if start + place not in without_answer:
            value = unwrapped({name: _own_row(array, place) for name, array in outputs.items()})
            batch.answer(start + place, value)


def settle_remaining_callers(batch: Batch, stop: Stop | None, statistics: Callable[[], Statistics]) -> None:
    """Raise the exception for ``stop`` in each caller of `predict` that has neither a value nor an exception yet."""
    # Only a stop may leave callers behind.
    lost = None if stop is not None else "a row was lost, although the run was not stopped"
    stop = final_stop(stop, lost)
    assert stop is not None
    for row in batch.open:
        # Each caller gets an exception of its own: a shared one would collect the tracebacks of all.
        batch.answer(row, stopped(stop, pending_row(statistics())))


def _own_row(array: Array, place: int) -> Any:
    # A view would keep the answers of all other callers in memory.
    value = array[place]
    return value.copy() if isinstance(value, np.ndarray) else value


def require_unchanged(chunker: Chunker) -> None:
    """Raise `InputError` if a file of the input was changed while it was read. Blocks on I/O."""
    if (path := chunker.changed_file()) is not None:
        raise InputError(f"{path} was changed while it was read: run again", key="input.path")

"""How the end of a run is told to its caller: nothing that succeeded is lost in an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.engine import RowStatus, Stop
from fanout.errors import Interrupted, RowsFailed, RunStopped
from fanout.types import Statistics

if TYPE_CHECKING:
    from fanout.types import Result

_SHOWN = 3


def pending_row(stats: Statistics | None = None) -> Result:
    """The account of one row that was not answered in time."""
    return RowStatus().result(1, stats or Statistics(rows=1))


def ending(stop: Stop | None, violation: str | None) -> Stop | None:
    """Why a run counts as stopped: a broken account of its rows comes before any other reason."""
    if violation is None:
        return stop
    before = f" (the run was stopped: {stop.reason})" if stop is not None else ""
    return Stop("internal", f"internal error of fanout, please report it: {violation}{before}")


def raise_if_stopped(stop: Stop | None, result: Result) -> None:
    """Raises `RunStopped` with the result in it, or `Interrupted` where a `KeyboardInterrupt` stopped the run."""
    if stop is None:
        return
    if isinstance(stop.cause, KeyboardInterrupt):
        raise Interrupted(stop.reason, kind=stop.kind, result=result) from stop.cause
    raise RunStopped(stop.reason, kind=stop.kind, result=result) from stop.cause


def raise_if_failed(result: Result) -> None:
    """Raises `RowsFailed` with the result in it."""
    if result.failures:
        raise rows_failed(result)


def rows_failed(result: Result) -> RowsFailed:
    """The exception for a result with failures."""
    failed = int(len(result.ok) - result.ok.sum())
    shown = "; ".join(str(failure) for failure in result.failures[:_SHOWN])
    more = len(result.failures) - _SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    text = f"{failed:,} of {len(result.ok):,} rows failed: {shown}{rest} (the others are in .result)"
    return RowsFailed(text, result=result)

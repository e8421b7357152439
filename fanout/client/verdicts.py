"""How the end of a run is told to its caller: nothing that succeeded is lost in an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.errors import RowsFailed, RunStopped

if TYPE_CHECKING:
    from fanout.engine import Stop
    from fanout.types import Result

_SHOWN = 3


def raise_if_stopped(stop: Stop | None, result: Result) -> None:
    """Raises `RunStopped` with the result in it."""
    if stop is not None:
        raise RunStopped(stop.reason, kind=stop.kind, result=result)


def raise_if_failed(result: Result) -> None:
    """Raises `RowsFailed` with the result in it."""
    if not result.failures:
        return
    failed = int(len(result.ok) - result.ok.sum())
    shown = "; ".join(str(failure) for failure in result.failures[:_SHOWN])
    more = len(result.failures) - _SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    text = f"{failed:,} of {len(result.ok):,} rows failed: {shown}{rest} (the others are in .result)"
    raise RowsFailed(text, result=result)

"""Which rows have no answer, and why: two small files beside the output."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import orjson

from fanout.sinks.partial import Partial

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.types import Failure, Result


def mask_path(output: Path) -> Path:
    """``probabilities.npy`` -> ``probabilities.ok.npy``."""
    return output.with_name(f"{output.stem}.ok.npy")


def failures_path(output: Path) -> Path:
    """``probabilities.npy`` -> ``probabilities.failures.jsonl``."""
    return output.with_name(f"{output.stem}.failures.jsonl")


def write_mask(output: Path, result: Result) -> Path:
    """Write the mask of rows that have an answer, shape (rows,), bool; returns its path."""
    text = io.BytesIO()
    np.save(text, result.ok)
    return _write(mask_path(output), text.getvalue())


def write_failures(output: Path, result: Result) -> Path:
    """Write one JSON object a line for each range of rows that failed alike, sorted by row; returns the path."""
    return _write(failures_path(output), b"".join(_line(failure) for failure in result.failures))


def remove_stale(output: Path, *, mask: bool, failures: bool) -> None:
    """Remove the report of an earlier run, as far as this one has none."""
    if mask:
        mask_path(output).unlink(missing_ok=True)
    if failures:
        failures_path(output).unlink(missing_ok=True)


def _line(failure: Failure) -> bytes:
    return orjson.dumps(
        {
            "start": failure.start,
            "stop": failure.stop,
            "status": failure.status,
            "attempts": failure.attempts,
            "reason": failure.reason,
            "endpoint": failure.endpoint,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def _write(path: Path, data: bytes) -> Path:
    partial = Partial(path)
    try:
        partial.append(data)
        partial.publish()
    except OSError:
        partial.discard()
        raise
    return path

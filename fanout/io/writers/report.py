"""Which rows have no answer, and why: two small files beside the output."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout._escape import safe_json
from fanout.files import PRIVATE
from fanout.io.writers.partial import Partial

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.types import Failure, Result


def make_mask(path: Path, result: Result) -> tuple[Path, Path]:
    """The mask of rows that have an answer, shape (rows,), bool, on the disk; its temporary name and its final one."""
    text = io.BytesIO()
    np.save(text, result.ok)
    return _make(path, text.getvalue())


def make_failures(path: Path, result: Result) -> tuple[Path, Path]:
    """One JSON object a line for each range of rows that failed alike, sorted by row; as `make_mask`."""
    return _make(path, b"".join(_line(failure) for failure in result.failures), PRIVATE)


def _line(failure: Failure) -> bytes:
    told: dict[str, Any] = {
        "start": failure.start,
        "stop": failure.stop,
        "status": failure.status,
        "attempts": failure.attempts,
        "reason": failure.reason,
        "endpoint": failure.endpoint,
    }
    if failure.ids:
        told["ids"] = list(failure.ids)
    return safe_json(told, orjson.OPT_APPEND_NEWLINE)


def _make(path: Path, data: bytes, mode: int = 0o666) -> tuple[Path, Path]:
    partial = Partial(path, mode=mode)
    try:
        partial.append(data)
        partial.sync()
        partial.close()
    except OSError:
        partial.discard()
        raise
    return partial.path, partial.final

"""Blocks of a Dask array through a model's API. Needs the extra ``dask``.

::

    import fanout.dask

    answers = fanout.dask.map_blocks(array, "job.toml", outputs={"y": ("float32", (768,))})
    y, ok, reason = dask.compute(answers["y"], answers["ok"], answers["reason"])

Rows that are in a file are better run with ``fanout run JOB --on dask``, which has a journal.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from fanout.cluster.batches import OK, REASON, BatchMapper, BatchSettings
from fanout.cluster.engines import missing_extra
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from fanout.cluster.batches import Outputs, Target
    from fanout.types import Array

_LOCK = threading.Lock()

# The client of the newest call, in each process that computes blocks, and the reason of a stop in this process.
_mappers: dict[str, BatchMapper] = {}
_stops: dict[str, str] = {}


def map_blocks(array: Any, job: Target, *, outputs: Outputs, workers: int | None = None) -> dict[str, Any]:
    """Send the rows of a Dask array, block by block, and return the answers as Dask arrays.

    Each process has one client; together they keep the limits of the job. Failed rows raise nothing. If the run of one
    process is stopped (the endpoint refuses, the cost limit is reached), the others stop before their next block, and
    every answer so far is kept. Compute all arrays in one call: each call sends the rows.

    Args:
        array: an array of Dask whose axis 0 is the rows; its other axes are not divided.
        job: path of a job file, whose tables input and output do not count; or the arguments of `Client` as a mapping,
            with ``endpoint`` and ``codec``. Credentials are names of variables (``${NAME}``), set on every worker.
        outputs: output -> dtype and shape of one row, such as ``{"y": ("float32", (768,))}``; ``"str"`` for texts. The
            only output of a model may have any name.
        workers: processes that compute blocks; if not given, the workers of the current client of Dask, or one
            for a scheduler in this process.

    Returns:
        The declared outputs, ``ok`` (bool) and ``reason`` (objects, texts; empty for an answered row), by name. Rows
        without an answer hold NaN, 0, False or an empty text.

    Raises:
        ConfigError: the arguments are wrong, or Dask is not installed.
    """
    try:
        import dask
        import dask.array as da
    except ImportError as error:
        raise missing_extra("Dask", "dask", error) from None
    if any(n_blocks > 1 for n_blocks in array.numblocks[1:]):
        raise ConfigError("rows are divided among blocks: rechunk the array, so that only axis 0 is divided")
    settings = BatchSettings.of(job, outputs, workers or _count_workers())
    name = uuid4().hex
    send = dask.delayed(_send, pure=False)
    answers = [send(block, settings, name) for block in array.to_delayed().reshape(-1)]
    forms = {**settings.outputs, OK: ("bool", ()), REASON: ("str", ())}
    columns = {}
    for column, (dtype, shape) in forms.items():
        kind = object if dtype == "str" else np.dtype(dtype)
        parts = zip(answers, array.chunks[0], strict=True)
        blocks = [da.from_delayed(one[column], (n_rows, *shape), kind) for one, n_rows in parts]
        columns[column] = da.concatenate(blocks)
    return columns


def _count_workers() -> int:
    try:
        from distributed import get_client

        return max(1, len(get_client().scheduler_info(n_workers=-1)["workers"]))
    except (ImportError, ValueError):  # no client: a scheduler in this process
        return 1


def _send(block: Array, settings: BatchSettings, name: str) -> dict[str, Array]:
    return _mapper(settings, name)(block.tolist() if block.dtype.kind in "OUT" else block, len(block))


def _mapper(settings: BatchSettings, name: str) -> BatchMapper:
    """Return the client of this process for a call of `map_blocks`; one of an earlier call is closed."""
    with _LOCK:
        if name not in _mappers:
            for earlier in list(_mappers):
                _mappers.pop(earlier).close()
            _mappers[name] = BatchMapper(settings, lambda: _stopped(name), lambda reason: _stop(name, reason))
        return _mappers[name]


def _stopped(name: str) -> str:
    if name in _stops:
        return _stops[name]
    event = _event(name)
    return "another worker has stopped" if event is not None and event.is_set() else ""


def _stop(name: str, reason: str) -> None:
    _stops[name] = reason
    if (event := _event(name)) is not None:
        event.set()


def _event(name: str) -> Any:
    """Return the event that all workers share; None for a scheduler in this process."""
    try:
        from distributed import Event, get_worker

        get_worker()
    except (ImportError, ValueError):
        return None
    return Event(f"fanout-{name}")

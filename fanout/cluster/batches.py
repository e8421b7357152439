"""Rows that an engine holds already: batches through one client a process, into columns of a declared schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fanout.client import Client
from fanout.client.loop_thread import LoopThread
from fanout.cluster.plan import most_workers, share_of
from fanout.errors import ConfigError, RunStopped
from fanout.job import load_job
from fanout.job.opening import client_of
from fanout.rows import castable, changed_by_cast, exact_digits
from fanout.settings import Limits

if TYPE_CHECKING:
    from os import PathLike

    from fanout.results import Result
    from fanout.types import Array

Target: TypeAlias = "str | PathLike[str] | Mapping[str, Any]"
"""Path of a job file, whose tables input and output do not count; or the arguments of `Client`, endpoint included."""

Outputs: TypeAlias = Mapping[str, tuple[Any, tuple[int, ...]]]
"""Output name -> dtype (``"str"`` for texts) and shape of one row."""

OK, REASON = "ok", "reason"
"""Columns beside the answers: whether a row has one, and the reason why it has none (an empty text if it has)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """The client of a worker and the columns of its answers. It pickles, and holds no secret.

    Attributes:
        target: as `Target`; the path of a job file has to be on a disk that all workers share.
        outputs: name -> dtype and shape of one row.
        workers: clients at the same time, which divide the limits.
    """

    target: str | Mapping[str, Any]
    outputs: Outputs
    workers: int

    @classmethod
    def of(cls, target: Target, outputs: Outputs, workers: int) -> BatchSettings:
        """Check the arguments of a call. Raises `ConfigError`."""
        forms = {name: _form_of(name, form) for name, form in outputs.items()}
        if not forms or {OK, REASON} & forms.keys():
            raise ConfigError(f"outputs needs a name -> (dtype, shape) for each answer, not {OK} or {REASON}")
        if not isinstance(target, Mapping):
            target = str(Path(target).absolute())
        elif not {"endpoint", "codec"} <= target.keys():
            raise ConfigError("the arguments of a client need endpoint and codec; or give the path of a job file")
        settings = cls(target=target, outputs=forms, workers=workers)
        limits = settings._limits()
        # Each batch is a run of its own, so this limit would hold for a batch alone.
        if limits.max_requests is not None and limits.shared is None:
            problem = "max_requests counts the requests of one run, and each batch is one: use max_cost"
            raise ConfigError(problem, key="limits.max_requests")
        return replace(settings, workers=most_workers(workers, limits, 2**62, 1))

    def client(self) -> Client:
        """Return the client of one worker, not open yet. It resolves ``${NAME}`` in this process."""
        limits = self.share(self._limits())
        if isinstance(self.target, Mapping):
            return Client(**{**self.target, "limits": limits})
        job = load_job(self.target)
        return client_of(replace(job, tables=job.tables.model_copy(update={"limits": limits})), whole=False)

    def _limits(self) -> Limits:
        if not isinstance(self.target, Mapping):
            return load_job(self.target).tables.limits
        limits = self.target.get("limits") or Limits()
        if not isinstance(limits, Limits):
            raise ConfigError(f"limits must be a fanout.Limits(...), not {type(limits).__name__}", key="limits")
        return limits

    def share(self, limits: Limits) -> Limits:
        """Return the limits of one worker."""
        if limits.shared is not None:
            return limits
        # Workers have no numbers here, so each takes the smallest share.
        share = share_of(limits, self.workers - 1, self.workers)
        if limits.max_cost is not None:
            share["max_cost"] = limits.max_cost / self.workers
        if limits.max_tokens_total is not None:
            share["max_tokens_total"] = max(1, limits.max_tokens_total // self.workers)
        return replace(limits, **share)


class BatchMapper:
    """Sends batches through one client, which lives as long as its process.

    Args:
        settings: of the client and its answers.
        stopped: returns the reason why another worker has stopped; an empty text if none has.
        stop: stops the other workers.
    """

    def __init__(self, settings: BatchSettings, stopped: Callable[[], str], stop: Callable[[str], object]) -> None:
        self._outputs = settings.outputs
        self._stopped, self._stop = stopped, stop
        self._loop = LoopThread()
        self._client = settings.client()
        self._loop.run(self._client.open())

    def __call__(self, rows: Any, n_rows: int) -> dict[str, Array]:
        """Send some rows. Returns a column for each output, `OK` and `REASON`, each of ``n_rows`` rows.

        Raises `ConfigError` if the answers have another dtype or shape than was declared.
        """
        if reason := self._stopped():
            return self._columns(None, n_rows, reason)
        try:
            result = self._loop.run(self._client.map(rows, on_error="keep"))
            reason = ""
        except RunStopped as error:
            # The answers so far were paid for.
            result, reason = error.result, error.reason
            self._stop(reason)
        return self._columns(result, n_rows, reason)

    def close(self) -> None:
        """Close the client."""
        if not self._loop.closed:
            self._loop.run(self._client.close())
            self._loop.close()

    def _columns(self, result: Result | None, n_rows: int, reason: str) -> dict[str, Array]:
        ok = np.zeros(n_rows, bool) if result is None else result.ok
        reasons = np.full(n_rows, "", object)
        reasons[~ok] = f"not sent, because the run was stopped: {reason}"
        for failure in () if result is None else result.failures:
            reasons[failure.start : failure.stop] = failure.reason
        values = {} if result is None or result.outputs is None else result.outputs
        columns = {name: _column(name, form, values, ok) for name, form in self._outputs.items()}
        return {**columns, OK: ok, REASON: reasons}


def rows_of(columns: Mapping[str, Array], names: str | Sequence[str] | None) -> Any:
    """Return the rows in a column of a batch, or in several, whose values by name are a row.

    Raises `ConfigError` if a column does not exist, or none is named where there are several.
    """
    if names is None and len(columns) > 1:
        raise ConfigError(f"column is missing: the columns are {', '.join(columns)}", key="column")
    wanted = [names] if isinstance(names, str) else list(names or columns)
    for name in wanted:
        if name not in columns:
            raise ConfigError(f'there is no column "{name}": the columns are {", ".join(columns)}', key="column")
    if names is None or isinstance(names, str):
        return _rows(columns[wanted[0]])
    return [dict(zip(wanted, row, strict=True)) for row in zip(*(_rows(columns[name]) for name in wanted), strict=True)]


def _rows(column: Array) -> Any:
    # Texts, and rows of unequal length, come as arrays of objects.
    return column.tolist() if column.dtype.kind in "OUT" else column


def _form_of(name: str, form: tuple[Any, tuple[int, ...]]) -> tuple[Any, tuple[int, ...]]:
    try:
        dtype, shape = form
        return ("str" if dtype in ("str", str) else np.dtype(dtype).str), tuple(map(int, shape))
    except (TypeError, ValueError):
        problem = f'outputs["{name}"] must be (dtype, shape), such as ("float32", (768,)), not {form!r}'
        raise ConfigError(problem, key="outputs") from None


def _column(name: str, form: tuple[Any, tuple[int, ...]], values: Mapping[str, Array], ok: Array) -> Array:
    """Return an output in its declared form; rows without an answer hold NaN, 0, False or an empty text."""
    has_texts, shape = form[0] == "str", form[1]
    dtype = np.dtype(object if has_texts else form[0])
    fill: Any = "" if has_texts else np.nan if dtype.kind in "fc" else 0
    if not values:
        return np.full((len(ok), *shape), fill, dtype)
    # A single output has no name of its own.
    array = values[""] if list(values) == [""] else values.get(name)
    if array is None:
        raise ConfigError(f'the answers have no output "{name}", but {", ".join(values)}', key="outputs")
    is_text = array.dtype.kind in "TU"
    fits = is_text if has_texts else not is_text and castable(array.dtype, dtype)
    if array.shape[1:] != shape or not fits:
        raise ConfigError(
            f'outputs["{name}"] declares {form[0]} {list(shape)}, and the answers are {array.dtype} '
            f"{list(array.shape[1:])}",
            key="outputs",
        )
    if array.dtype == dtype and ok.all():
        return array
    column: Array = np.full((len(ok), *shape), fill, dtype)
    if is_text:
        column[ok] = array[ok].tolist()
        return column
    with np.errstate(all="ignore"):
        column[ok] = array[ok]
    changed = changed_by_cast(array[ok], column[ok], exact_digits(dtype))
    if changed.any():
        raise ConfigError(
            f'outputs["{name}"] declares {form[0]}, which does not hold {array[ok][changed][0]}', key="outputs"
        )
    return column

"""Batches of a Ray dataset through a model's API. Needs the extra ``ray``.

::

    import fanout.ray

    answered = fanout.ray.map_batches(ds, "job.toml", column="text", outputs={"embedding": ("float32", (768,))})
    answered.filter(lambda row: row["ok"]).write_parquet("embeddings/")

Rows that are in a file are better run with ``fanout run JOB --on ray``, which has a journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.cluster.batches import BatchMapper, BatchSettings, rows_of
from fanout.cluster.engines import missing_extra
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.cluster.batches import Outputs, Target
    from fanout.types import Array


def map_batches(
    dataset: Any,
    job: Target,
    *,
    outputs: Outputs,
    column: str | Sequence[str] | None = None,
    workers: int = 2,
    batch_rows: int = 4096,
    num_cpus: float = 1,
) -> Any:
    """Send the rows of a Ray dataset, and return a dataset with the answers beside its columns.

    Each worker is an actor with one client; together they keep the limits of the job. Failed rows raise nothing. If the
    run of one worker is stopped (the endpoint refuses, the cost limit is reached), the others stop before their next
    batch, and every answer so far is in the dataset.

    Args:
        dataset: a dataset of Ray Data.
        job: path of a job file, whose tables input and output do not count; or the arguments of `Client` as a mapping,
            with ``endpoint`` and ``codec``. Credentials are names of variables (``${NAME}``), set on every worker.
        outputs: output -> dtype and shape of one row, such as ``{"y": ("float32", (768,))}``; ``"str"`` for texts. The
            only output of a model may have any name.
        column: the column whose values are the rows, or several, whose values by name are a row; may be left out if
            there is only one.
        workers: actors.
        batch_rows: rows in a call of a worker, which should be many requests for each that may be in flight.
        num_cpus: processors that Ray reserves for a worker.

    Returns:
        The dataset with the declared columns, ``ok`` (bool) and ``reason`` (text; empty for an answered row). Rows
        without an answer hold NaN, 0, False or an empty text.

    Raises:
        ConfigError: the arguments are wrong, or Ray is not installed. Errors of a worker are raised by Ray as the
            dataset is computed.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_extra("Ray", "ray", error) from None
    settings = BatchSettings.of(job, outputs, workers)
    stop = ray.remote(num_cpus=0)(_StopFlag).remote()
    return dataset.map_batches(
        _Worker,
        fn_constructor_args=(settings, column, stop),
        compute=ray.data.ActorPoolStrategy(size=settings.workers),
        batch_size=batch_rows,
        batch_format="numpy",
        num_cpus=num_cpus,
    )


class _StopFlag:
    """An actor with the reason of the first stop."""

    def __init__(self) -> None:
        self._reason = ""

    def get(self) -> str:
        return self._reason

    def set(self, reason: str) -> None:
        self._reason = self._reason or reason


class _Worker:
    """An actor with one client."""

    def __init__(self, settings: BatchSettings, column: str | Sequence[str] | None, stop: Any) -> None:
        import ray

        self._column = column
        self._names = settings.outputs
        self._mapper = BatchMapper(
            settings, lambda: str(ray.get(stop.get.remote())), lambda reason: ray.get(stop.set.remote(reason))
        )

    def __call__(self, batch: dict[str, Array]) -> dict[str, Array]:
        n_rows = len(next(iter(batch.values())))
        answers = self._mapper(rows_of(batch, self._column), n_rows)
        if taken := batch.keys() & answers.keys():
            raise ConfigError(f"the dataset has a column {', '.join(sorted(taken))} already: rename it, or the output")
        return {**batch, **answers}

    def __ray_shutdown__(self) -> None:
        self._mapper.close()

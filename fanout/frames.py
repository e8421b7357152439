"""Answers as tables of pandas, polars and pyarrow, which are imported when they are asked for."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fanout.arrow import rows_array, text_array
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fanout.results import Failure, Result
    from fanout.types import Array, Chunk

Frame: TypeAlias = Any
"""A frame of pandas or polars, an Arrow table, another object with Arrow's C stream interface, or a dataset of Hugging
Face."""

VALUE = "value"
"""Column of an output without a name."""

ERROR = "error"
"""Column of the reasons why rows have no answer, beside columns of the input."""

_NOT_SENT = "no answer: the run was stopped"
# A notebook shows the result of each cell, so that its failures have to stay short.
_SHOWN_FAILURES = 5
_REMEDIES = {"Series": "send series.to_frame()", "LazyFrame": "send frame.collect()"}


class Reasons:
    """The reasons why rows of a result have no answer, by row."""

    def __init__(self, result: Result) -> None:
        absent: list[Failure | Chunk] = [*result.failures, *result.pending]
        self._absent = sorted(absent, key=lambda rows: rows.start)
        self._starts = [rows.start for rows in self._absent]

    def __call__(self, start: int, stop: int) -> list[str | None] | None:
        """Return the reason for each row in ``start <= i < stop``; None if all of them have an answer."""
        reasons: list[str | None] | None = None
        # A run may have a million failures, of which only those that touch these rows are looked at.
        begin, end = max(0, bisect_right(self._starts, start) - 1), bisect_left(self._starts, stop)
        for rows in self._absent[begin:end]:
            first, last = max(rows.start, start), min(rows.stop, stop)
            if first < last:
                reasons = reasons or [None] * (stop - start)
                reason = getattr(rows, "reason", _NOT_SENT)
                reasons[first - start : last - start] = [reason] * (last - first)
        return reasons


def answer_columns(wanted: Mapping[str, str], taken: Collection[str]) -> dict[str, str]:
    """Return the column of each output: its wanted name, `VALUE` for none, with ``_`` appended if it is taken.

    Args:
        wanted: output -> name.
        taken: names of other columns.
    """
    names, columns = set(taken), dict.fromkeys(wanted, "")
    # Names that need no change come first, so that each output keeps its own name if it can.
    for output in sorted(wanted, key=lambda one: wanted[one] in taken or not wanted[one]):
        columns[output] = free_name(wanted[output] or VALUE, names)
        names.add(columns[output])
    return columns


def free_name(name: str, taken: Collection[str]) -> str:
    """Return ``name``, with as many ``_`` appended as it takes to differ from ``taken``."""
    while name in taken:
        name += "_"
    return name


def result_columns(result: Result) -> dict[str, Any]:
    """Return the columns of a result: ``index``, the outputs, ``ok`` and ``reason``."""
    outputs = _named_outputs(result, {"index", "ok", "reason"})
    return {"index": np.arange(len(result.ok)), **outputs, "ok": result.ok, "reason": _reasons(result)}


def to_arrow(columns: Mapping[str, Any], ok: Array, outputs: Sequence[str]) -> Frame:
    """Return an Arrow table; ``outputs`` are the columns that are null where ``ok`` is false."""
    pa = _import("pyarrow", "arrow")
    table = {}
    for name, column in columns.items():
        present = ok if name in outputs else np.ones(len(ok), bool)
        table[name] = text_array(column) if isinstance(column, list) else rows_array(column[present], present)
    return pa.table(table)


def to_pandas(columns: Mapping[str, Any], ok: Array, outputs: Sequence[str], index: Any = None) -> Frame:
    """Return a frame of pandas, with the row labels ``index`` if they are given."""
    pd = _import("pandas", "pandas")
    series = {name: _pandas_column(pd, one, ok, absent=name in outputs, index=index) for name, one in columns.items()}
    return pd.DataFrame(series, index=index)


def to_polars(table: Frame) -> Frame:
    """Return an Arrow table as a frame of polars."""
    return _import("polars", "polars").from_arrow(table)


def with_answers(frame: Frame, keep: Sequence[str] | str, result: Result) -> Frame:
    """Return a frame of the same library: columns of ``frame``, then the outputs, then ``error``.

    Args:
        frame: the table whose rows were sent.
        keep: its columns to keep; ``"*"`` for all.
        result: the answers to all of its rows.
    """
    # All columns are kept as they are, since several of them may have one name.
    everything = keep == "*"
    kept = column_names(frame) if everything else list(dict.fromkeys(_names(keep)))
    error = free_name(ERROR, kept)
    answers = _named_outputs(result, {*kept, error})
    columns = {**answers, error: _reasons(result)}
    if _library(frame) == "pandas":
        added = to_pandas(columns, result.ok, list(answers), frame.index)
        return _import("pandas", "pandas").concat([frame if everything else frame[kept], added], axis=1)
    table = to_arrow(columns, result.ok, list(answers))
    if _library(frame) == "polars":
        polars = _import("polars", "polars")
        return polars.concat([frame.select(kept), polars.from_arrow(table)], how="horizontal")
    if _library(frame) == "datasets":
        datasets = _import("datasets", "datasets")
        # Kept columns stay where they are, in memory or on the disk.
        return datasets.concatenate_datasets([frame.select_columns(kept), datasets.Dataset(table)], axis=1)
    kept_table = _import("pyarrow", "arrow").table(frame)
    kept_table = kept_table if everything else kept_table.select(kept)
    for name in table.column_names:
        kept_table = kept_table.append_column(table.schema.field(name), table.column(name))
    return kept_table


def rows_of(frame: Frame, columns: Sequence[str] | str | None, keep: Sequence[str] | str) -> Frame:
    """Return the columns of a frame that are sent: of one name, its bare values; of several, a frame.

    Args:
        frame: the table.
        columns: the columns to send; all if None.
        keep: the columns for `with_answers`, which are checked here, before the first request.

    Raises:
        ConfigError: this is no frame, or it has no such column.
    """
    _require_columns(frame, [] if keep == "*" else _names(keep), "keep")
    if columns is None:
        return frame
    names = _names(columns)
    _require_columns(frame, names, "columns")
    if _library(frame) in ("pandas", "polars"):
        return frame[names if _are_several(columns) else columns]
    if _library(frame) == "datasets":
        return frame.select_columns(names)
    return _import("pyarrow", "arrow").table(frame).select(names)


def column_names(frame: Frame) -> list[str]:
    """Return the names of a frame's columns. Raises `ConfigError` if it is no frame."""
    kind = type(frame).__name__
    if _library(frame) in ("pandas", "polars") and kind in _REMEDIES:
        raise ConfigError(f"frame must be a table, not a {kind}: {_REMEDIES[kind]}", key="frame")
    if _library(frame) in ("pandas", "polars") and hasattr(frame, "columns"):
        return list(frame.columns)
    if _library(frame) == "datasets" and hasattr(frame, "features") and hasattr(frame, "__len__"):
        return list(frame.column_names)
    if _library(frame) == "datasets" and isinstance(frame, Mapping):
        splits = ", ".join(map(str, frame))
        raise ConfigError(f"this is a dataset of several splits: choose one of {splits}", key="frame")
    if hasattr(frame, "__arrow_c_stream__") and hasattr(frame, "__len__"):
        names: list[str] = _import("pyarrow", "arrow").table(frame).column_names
        return names
    known = "a frame of pandas or polars, an Arrow table, or a dataset of Hugging Face"
    if hasattr(frame, "__arrow_c_stream__"):
        kind += ", whose stream can be read only once: make it a table with pyarrow.table(...)"
    raise ConfigError(f"frame must be {known}, not {kind}", key="frame")


def _names(columns: Sequence[str] | str) -> list[str]:
    return list(columns) if _are_several(columns) else [columns]  # type: ignore[list-item]


def _are_several(columns: object) -> bool:
    # pandas numbers the columns of a table without names.
    return isinstance(columns, Iterable) and not isinstance(columns, str)


def _require_columns(frame: Frame, names: Sequence[str], option: str) -> None:
    """Raise `ConfigError` for a name that is no column of the frame."""
    known = column_names(frame)
    for name in names:
        if name not in known:
            listed = ", ".join(map(repr, known[:30]))
            raise ConfigError(f"the frame has no column {name!r}; it has {listed}", key=option)
        if known.count(name) > 1:
            raise ConfigError(f"the frame has {known.count(name)} columns {name!r}: rename all but one", key=option)


def result_html(result: Result) -> str:
    """Return a result as HTML for notebooks: its counts, its outputs and the first failures. All texts are escaped."""
    n_rows, n_ok = len(result.ok), int(result.ok.sum())
    pending = sum(map(len, result.pending))
    cells = {"rows": n_rows, "ok": n_ok, "failed": n_rows - n_ok - pending, "pending": pending}
    head = "".join(f"<th>{name}</th>" for name in cells)
    body = "".join(f"<td>{count:,}</td>" for count in cells.values())
    outputs = "".join(
        f"<li><code>{escape(name or VALUE)}</code>: {escape(str(array.dtype))}, shape {list(array.shape)}</li>"
        for name, array in (result.outputs or {}).items()
    )
    failures = "".join(f"<li>{escape(str(failure))}</li>" for failure in result.failures[:_SHOWN_FAILURES])
    more = len(result.failures) - _SHOWN_FAILURES
    failures += f"<li>and {more:,} more</li>" if more > 0 else ""
    lists = "".join(f"<ul>{items}</ul>" for items in (outputs, failures) if items)
    return f"<table><tr>{head}</tr><tr>{body}</tr></table>{lists}"


def _named_outputs(result: Result, taken: Collection[str]) -> dict[str, Any]:
    outputs = result.outputs or {}
    names = answer_columns({name: name for name in outputs}, taken)
    return {names[name]: array for name, array in outputs.items()}


def _reasons(result: Result) -> list[str | None]:
    n_rows = len(result.ok)
    return Reasons(result)(0, n_rows) or [None] * n_rows


def _library(frame: Frame) -> str:
    return type(frame).__module__.partition(".")[0]


def _import(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        remedy = f"pip install 'fanout-ml[{extra}]'" if extra == "arrow" else f"pip install {extra}"
        raise ConfigError(f"this table needs {name} ({error}): {remedy}") from None


def _pandas_column(pd: Any, column: Any, ok: Array, *, absent: bool, index: Any) -> Any:
    if isinstance(column, list):
        return pd.Series(column, index=index, dtype=object)
    if column.ndim > 1 or column.dtype.kind in "TU":
        values = [value if is_ok else None for value, is_ok in zip(column.tolist(), ok.tolist(), strict=True)]
        if column.ndim > 1:
            values = [row if is_ok else None for row, is_ok in zip(column, ok.tolist(), strict=True)]
        return pd.Series(values, index=index, dtype=object)
    series = pd.Series(column, index=index)
    if not absent or ok.all() or column.dtype.kind == "f":
        return series
    # Integers and bools have no NaN: the nullable dtype keeps their values exact.
    return series.convert_dtypes().mask(~ok)

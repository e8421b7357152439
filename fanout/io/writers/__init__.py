"""Sinks for answers: one file format a module, with `open_sink` to choose among them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fanout.errors import ConfigError
from fanout.io.writers.arrow import ArrowFileSink, ParquetSink
from fanout.io.writers.base import Checkpoint, FileSink, Move
from fanout.io.writers.cells import value_cell
from fanout.io.writers.csv import CsvSink, csv_cell
from fanout.io.writers.jsonl import JsonLinesSink
from fanout.io.writers.npy import NpySink
from fanout.io.writers.spool import SpoolSink
from fanout.options import checks_options
from fanout.paths import KEY, check_names

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ArrowFileSink", "Checkpoint", "CsvSink", "FileSink", "JsonLinesSink", "Move", "NpySink", "ParquetSink",
    "csv_cell", "open_sink", "value_cell",
]  # fmt: skip


class _Format(NamedTuple):
    sink: type[FileSink]
    holds: str
    """The kinds of values, for the message about an unknown suffix."""


# A new format is a module with a sink, a line here, and a line in the documentation of outputs.
_FORMATS = {
    ".npy": _Format(NpySink, "numbers"),
    ".jsonl": _Format(JsonLinesSink, "numbers and texts"),
    ".csv": _Format(CsvSink, "numbers and texts"),
    ".parquet": _Format(ParquetSink, "numbers and texts"),
    ".arrow": _Format(ArrowFileSink, "numbers and texts"),
    ".feather": _Format(ArrowFileSink, "numbers and texts"),
}


@checks_options
def open_sink(path: Path | str, *, rename: Mapping[str, str] | None = None, csv_safe: bool = False) -> FileSink:
    """Return the sink for a file, whose suffix is the format. No file is touched before `FileSink.open`.

    Args:
        path: the file.
        rename: output -> its column or field; ``"value"`` stands for the only output of a model.
        csv_safe: in a CSV file, put an apostrophe before texts that a spreadsheet would compute (those that begin with
            ``=``, ``+``, ``-`` or ``@``).

    Raises:
        ConfigError: no format has that suffix, or the file cannot be written (its ``key`` is ``"output.path"``), or has
            no columns to rename.
    """
    path = Path(path)
    known = _FORMATS.get(path.suffix.lower())
    if known is None:
        problem = f"an output cannot be a {path.suffix} file" if path.suffix else "its name has no suffix"
        formats = ", ".join(f"{suffix} ({one.holds})" for suffix, one in _FORMATS.items())
        raise ConfigError(f"{path.name}: {problem}; the suffix is the format: {formats}", key=KEY)
    # The names are checked again by `open`; here the error comes before the input is read.
    check_names(path)
    if issubclass(known.sink, SpoolSink):
        return known.sink(path, rename, safe=csv_safe)
    if rename:
        raise ConfigError(f"{path.name} has no columns to rename: leave rename out", key="output.rename")
    return known.sink(path)

"""Where answers go: one file format a module, `open_sink` to choose among them."""

from __future__ import annotations

from pathlib import Path

from fanout.errors import ConfigError
from fanout.sinks.base import KEY, Earlier, FileSink, Move, check_output
from fanout.sinks.jsonl import JsonLinesSink
from fanout.sinks.npy import NpySink
from fanout.sinks.parquet import ParquetSink
from fanout.sinks.report import report_paths

__all__ = ["Earlier", "FileSink", "JsonLinesSink", "Move", "NpySink", "ParquetSink", "open_sink", "report_paths"]

_FORMATS: dict[str, type[FileSink]] = {
    ".npy": NpySink,
    ".jsonl": JsonLinesSink,
    ".parquet": ParquetSink,
}


def open_sink(path: Path | str) -> FileSink:
    """The sink for a file, whose suffix tells the format. No file is touched before its `FileSink.open`.

    Raises:
        ConfigError: no format has that suffix, or the file cannot be written; its ``key`` is ``"output.path"``.
    """
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"{path.name} has no suffix that tells its format; known are {', '.join(_FORMATS)}", key=KEY)
    check_output(path)
    return kind(path)

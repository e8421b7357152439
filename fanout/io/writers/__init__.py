"""Where answers go: one file format a module, `open_sink` to choose among them."""

from __future__ import annotations

from pathlib import Path

from fanout.errors import ConfigError
from fanout.io.writers.base import Earlier, FileSink, Move
from fanout.io.writers.jsonl import JsonLinesSink
from fanout.io.writers.npy import NpySink
from fanout.io.writers.parquet import ParquetSink
from fanout.options import checks_options
from fanout.paths import KEY, check_names

__all__ = ["Earlier", "FileSink", "JsonLinesSink", "Move", "NpySink", "ParquetSink", "open_sink"]

_FORMATS: dict[str, type[FileSink]] = {
    ".npy": NpySink,
    ".jsonl": JsonLinesSink,
    ".parquet": ParquetSink,
}


@checks_options
def open_sink(path: Path | str) -> FileSink:
    """The sink for a file, whose suffix tells the format. No file is touched before its `FileSink.open`.

    Raises:
        ConfigError: no format has that suffix, or the file cannot be written; its ``key`` is ``"output.path"``.
    """
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        problem = f"an output cannot be a {path.suffix} file" if path.suffix else "its name has no suffix"
        formats = ".npy (numbers), .jsonl or .parquet (numbers and texts)"
        raise ConfigError(f"{path.name}: {problem}; the suffix is the format: {formats}", key=KEY)
    check_names(path)
    return kind(path)

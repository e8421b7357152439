"""Open the output file for answers, in any of the formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fanout.addresses import Storage
from fanout.errors import ConfigError
from fanout.io.remote.destination import Destination
from fanout.io.remote.file import RemoteFile, is_web, url_of
from fanout.io.writers.arrow import ArrowFileSink, ParquetSink
from fanout.io.writers.npy import NpySink
from fanout.io.writers.spool import SpoolSink
from fanout.io.writers.text import CsvSink, JsonLinesSink
from fanout.options import checks_options
from fanout.paths import KEY, check_names, require_apart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.io.readers.base import Source
    from fanout.io.writers.base import FileSink


# A new format is a module with a sink, a line here, and a line in the documentation of outputs.
_SINKS: dict[str, type[FileSink]] = {
    ".npy": NpySink,
    ".jsonl": JsonLinesSink,
    ".csv": CsvSink,
    ".parquet": ParquetSink,
    ".arrow": ArrowFileSink,
    ".feather": ArrowFileSink,
}


@checks_options
def open_sink(
    path: Path | str,
    *,
    rename: Mapping[str, str] | None = None,
    csv_safe: bool = False,
    storage: Storage | None = None,
    folder: Path | str = ".",
) -> FileSink:
    """Return the sink for a file, whose suffix is the format. No file is touched before `FileSink.open`.

    The output at a URL (``s3://bucket/y.npy``, ``gs://``, ``az://``) is a local file until it is complete, and then
    uploaded: ``fanout-uploads/s3/bucket/y.npy``. The local files stay.

    Args:
        path: the file, or its URL.
        rename: output -> its column or field; ``"value"`` stands for the only output of a model.
        csv_safe: in a CSV file, put an apostrophe before texts that a spreadsheet would compute (those that begin with
            ``=``, ``+``, ``-`` or ``@``).
        storage: access to the URL, where the environment does not give it.
        folder: folder of ``fanout-uploads``.

    Raises:
        ConfigError: no format has that suffix, or the file cannot be written (its ``key`` is ``"output.path"``), or has
            no columns to rename.
    """
    url = url_of(path, KEY)
    destination = None if url is None else Destination(url, storage or Storage(), Path(folder))
    sink = _local_sink(Path(path) if destination is None else destination.local, rename, csv_safe=csv_safe)
    sink.destination = destination
    return sink


def require_apart_from_input(sink: FileSink, source: Source) -> None:
    """Raise `ConfigError` if a run into ``sink`` would replace or remove a file that ``source`` reads."""
    require_apart(sink.path, [file for file in source.files if isinstance(file, Path)])
    if (destination := sink.destination) is None:
        return
    remote = [file.url for file in source.files if isinstance(file, RemoteFile)]
    # Objects are compared by the local names that they would have as outputs: the rules are those of files.
    try:
        require_apart(sink.path, [destination.staged(url) for url in remote if not is_web(url)])
    except ConfigError as error:
        raise ConfigError(destination.with_urls(str(error)), key=error.key) from None


def _local_sink(path: Path, rename: Mapping[str, str] | None, *, csv_safe: bool) -> FileSink:
    sink = _SINKS.get(path.suffix.lower())
    if sink is None:
        problem = f"an output cannot be a {path.suffix} file" if path.suffix else "its name has no suffix"
        formats = [f"{suffix} (numbers{'' if one is NpySink else ' and texts'})" for suffix, one in _SINKS.items()]
        raise ConfigError(f"{path.name}: {problem}; the suffix is the format: {', '.join(formats)}", key=KEY)
    # The names are checked again by `open`; here the error comes before the input is read.
    check_names(path)
    if issubclass(sink, SpoolSink):
        return sink(path, rename, safe=csv_safe)
    if rename:
        raise ConfigError(f"{path.name} has no columns to rename: leave rename out", key="output.rename")
    return sink(path)

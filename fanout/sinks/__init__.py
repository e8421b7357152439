"""Where answers go: one file format a module, `open_sink` to choose among them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fanout.errors import ConfigError
from fanout.sinks.base import FileSink
from fanout.sinks.jsonl import JsonLinesSink
from fanout.sinks.npy import NpySink
from fanout.sinks.report import failures_path, mask_path

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "FileSink",
    "JsonLinesSink",
    "NpySink",
    "check_output",
    "failures_path",
    "mask_path",
    "open_sink",
]

_FORMATS: dict[str, type[FileSink]] = {".npy": NpySink, ".jsonl": JsonLinesSink}


def open_sink(path: Path, n_rows: int) -> FileSink:
    """A sink for the answers to ``n_rows`` rows. The folder is made where it is missing.

    Raises:
        ConfigError: the suffix tells no known format, or the file cannot be written; its ``key`` is ``"output.path"``.
    """
    check_output(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _FORMATS[path.suffix.lower()](path, n_rows)
    except BlockingIOError:
        raise ConfigError(f"another run is writing {path} at this moment", key="output.path") from None
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None


def check_output(path: Path) -> None:
    """Raise `ConfigError` for a path that `open_sink` would refuse, as far as can be told without touching a file."""
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(
            f"{path.name} has no suffix that tells its format; known are {', '.join(_FORMATS)}", key="output.path"
        )
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name a file in it", key="output.path")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None
    if not folder.is_dir():
        raise _unwritable(path, f"{folder} is not a folder")
    # Replacing a file asks for nothing but its folder, but one that is write-protected is so on purpose.
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise _unwritable(path, "no permission")


def _unwritable(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} cannot be written: {why}", key="output.path")

"""Sinks for answers: one file format a module, with `open_sink` to choose among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._lazy import lazy

if TYPE_CHECKING:
    from fanout.io.writers.arrow import ArrowFileSink, ParquetSink
    from fanout.io.writers.base import Checkpoint, FileSink, Move
    from fanout.io.writers.npy import NpySink
    from fanout.io.writers.opening import open_sink, require_apart_from_input
    from fanout.io.writers.text import CsvSink, JsonLinesSink, csv_cell, value_cell

__all__ = [
    "ArrowFileSink", "Checkpoint", "CsvSink", "FileSink", "JsonLinesSink", "Move", "NpySink", "ParquetSink",
    "csv_cell", "open_sink", "require_apart_from_input", "value_cell",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "fanout.io.writers.arrow": ("ArrowFileSink", "ParquetSink"),
        "fanout.io.writers.base": ("Checkpoint", "FileSink", "Move"),
        "fanout.io.writers.npy": ("NpySink",),
        "fanout.io.writers.opening": ("open_sink", "require_apart_from_input"),
        "fanout.io.writers.text": ("CsvSink", "JsonLinesSink", "csv_cell", "value_cell"),
    },
)

"""Sources of rows: one file format a module, with `open_source` to choose among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._lazy import lazy

if TYPE_CHECKING:
    from fanout.io.readers.base import BLOCK_BYTES, Source
    from fanout.io.readers.opening import open_columns, open_source
    from fanout.io.readers.tables import as_source

__all__ = ["BLOCK_BYTES", "Source", "as_source", "open_columns", "open_source"]

__getattr__ = lazy(
    __name__,
    {
        "fanout.io.readers.base": ("BLOCK_BYTES", "Source"),
        "fanout.io.readers.opening": ("open_columns", "open_source"),
        "fanout.io.readers.tables": ("as_source",),
    },
)

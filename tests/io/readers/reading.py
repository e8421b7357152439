"""Helpers for tests of sources: read one whole, in tiny blocks or in part, or get its error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest

from fanout.errors import InputError
from fanout.io.readers import base
from fanout.io.readers.opening import open_source
from fanout.rows import count_rows, join_rows, single_rows

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.io.readers.base import Source
    from fanout.types import Block, Rows

TINY = 40
"""Bytes: blocks of very few rows."""


def blocks(source: Source, size: int = base.BLOCK_BYTES, row: int = 0) -> list[Block]:
    with mock.patch.object(base, "BLOCK_BYTES", size):
        read = list(source.blocks_from(row) if row else source.blocks())
    assert all(count_rows(block.rows) for block in read)
    return read


def read(source: Source, size: int = base.BLOCK_BYTES, row: int = 0) -> Rows:
    return join_rows([block.rows for block in blocks(source, size, row)])


def ids(source: Source, size: int = TINY) -> list[Any]:
    return [label for block in blocks(source, size) for label in block.ids]


def refusal(path: Path | str, column: Any = None, **options: Any) -> InputError:
    """Why an input is refused, when it is opened or as it is read."""
    with pytest.raises(InputError) as caught:
        list(open_source(path, column, **options).blocks())
    assert "\n" not in str(caught.value)
    return caught.value


def refused_at_once(path: Path | str, column: Any = None, **options: Any) -> InputError:
    """Why an input is refused when it is opened, before anything is read of its rows."""
    with pytest.raises(InputError) as caught:
        open_source(path, column, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def plain(rows: Rows) -> list[Any]:
    """Rows as Python has them, whatever they came in."""
    return [_plain(row) for row in single_rows(rows)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def holds_in_parts(source: Source, whole: list[Any], size: int = TINY) -> None:
    """Read in tiny blocks, twice, from any row on, and in slices, the rows are the same."""
    assert plain(read(source, size)) == whole
    assert plain(read(source, size)) == whole
    assert source.n_rows in (None, len(whole))
    for row in range(len(whole) + 2):
        assert plain(read(source, size, row)) == whole[row:]
    for start, stop in [(0, 0), (0, 1), (1, 3), (2, None), (3, 2), (1, 10**6), (10**6, None)]:
        part = source.sliced(slice(start, stop))
        assert plain(read(part, size)) == whole[start:stop]
        assert part.n_rows in (None, len(whole[start:stop]))
        assert plain(read(part.sliced(slice(1, 3)), size)) == whole[start:stop][1:3]
        assert plain(read(part, size, 1)) == whole[start:stop][1:]
    if source.n_rows is not None:
        for first, last in [(-2, None), (None, -1), (-3, -1), (-(10**6), 2)]:
            assert plain(read(source.sliced(slice(first, last)), size)) == whole[first:last]

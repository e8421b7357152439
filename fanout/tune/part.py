"""The part of an input that trials send: read once, and given again from its beginning as often as it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import InputError
from fanout.io.readers import BLOCK_BYTES, Source
from fanout.types import Block, count_rows, join_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.types import Rows

_BYTES = 64 * 2**20
"""About how much of an input is held in memory."""


class Part(Source):
    """Rows in memory, one round after the other, without end."""

    def __init__(self, rows: Rows, *, uniform: bool) -> None:
        self.rows = rows
        self.length = count_rows(rows)
        self.uniform = uniform

    def blocks(self) -> Iterator[Block]:
        """See `Source.blocks`."""
        while True:
            yield Block(self.rows)

    def fingerprint(self) -> dict[str, Any] | None:
        """See `Source.fingerprint`."""
        return None


def read_part(source: Source) -> Part:
    """The rows of ``source``, or the first 64 MiB of them. Raises `InputError` where there are none."""
    parts, held = [], 0
    for block in source.blocks():
        parts.append(block.rows)
        held += _nbytes(block.rows)
        if held >= _BYTES:
            break
    if not parts:
        raise InputError("there are no rows to send: the input is empty, or --rows selects none of it")
    return Part(join_rows(parts), uniform=source.uniform)


def _nbytes(rows: Rows) -> int:
    if isinstance(rows, Mapping):
        return sum(column.nbytes for column in rows.values())
    return rows.nbytes if isinstance(rows, np.ndarray) else BLOCK_BYTES

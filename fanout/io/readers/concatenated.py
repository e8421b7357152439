"""Several files that are read as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fanout.errors import InputError
from fanout.io.readers.base import SeekableSource, cut
from fanout.types import count_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fanout.types import Block


class FileSource(Protocol):
    """A source that is one file and knows the form of its rows."""

    path: Path
    n_rows: int | None
    uniform: bool
    form: Any
    """What its rows look like, for comparison and messages."""

    def blocks_from(self, row: int) -> Iterator[Block]:
        """See `Source.blocks_from`."""

    def fingerprint(self) -> dict[str, Any]:
        """See `Source.fingerprint`."""


class Concatenated(SeekableSource):
    """The rows of one file after those of another.

    Raises:
        InputError: their rows are not of one form.
    """

    def __init__(self, files: Sequence[FileSource]) -> None:
        self._files = files
        self.files = tuple(file.path for file in files)
        for file in files[1:]:
            if file.form != files[0].form:
                told = f"{file.path} holds {_told(file.form)}, but {files[0].path} holds {_told(files[0].form)}"
                raise InputError(f"{told}: files that are read as one must agree", key="input.path")
        self.uniform = all(file.uniform for file in files)
        known = [file.n_rows for file in files if file.n_rows is not None]
        self.n_rows = sum(known) if len(known) == len(files) else None

    def blocks_from(self, row: int) -> Iterator[Block]:
        """See `Source.blocks_from`."""
        for file in self._files:
            if file.n_rows is None:  # only a pass over it tells how many of the rows before ``row`` it has
                for block in file.blocks_from(0):
                    n_rows = count_rows(block.rows)
                    if row < n_rows:
                        yield cut(block, row, n_rows)
                    row = max(0, row - n_rows)
                continue
            if row < file.n_rows:
                yield from file.blocks_from(row)
            row = max(0, row - file.n_rows)

    def fingerprint(self) -> dict[str, Any]:
        """See `Source.fingerprint`."""
        return {"files": [file.fingerprint() for file in self._files]}


def _told(form: Any) -> str:
    return ", ".join(f'"{name}": {of}' for name, of in form.items()) if isinstance(form, dict) else str(form)

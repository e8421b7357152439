"""What all sinks that write files have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from fanout.sinks.partial import Partial
from fanout.sinks.report import remove_stale, write_failures, write_mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.types import Done, Result


class FileSink(ABC):
    """A sink that writes ``path``, and beside it which rows have no answer and why.

    An earlier output stays in place until the new one is whole. Rows without an answer hold a fill value. Where no
    row succeeded there is nothing to put in its place: it stays, with its mask; only the failures are written.

    Args:
        path: the output file.
        n_rows: rows of the whole input.

    Raises:
        OSError: the file cannot be written; `BlockingIOError` when another run is writing it.
    """

    def __init__(self, path: Path, n_rows: int) -> None:
        self.path = path
        self.n_rows = n_rows
        self.outputs: tuple[Path, ...] = ()
        """Files with the answers; filled in by `finish`."""
        self.mask: Path | None = None
        """File that tells which rows have an answer, where not all have."""
        self.failures: Path | None = None
        """File that tells why rows failed, where some did."""
        self._partial = Partial(path)

    @abstractmethod
    def write(self, done: Sequence[Done]) -> None:
        """Take some chunks, in any order of rows. Called on a helper thread, one call at a time.

        An `OSError` raised here stops the run (kind ``"output"``).
        """

    def finish(self, result: Result) -> None:
        """Write what is missing and give every file its final name: once, after the run has ended or was stopped.

        Raises `OSError`; what was written then stays as ``.partial``.
        """
        succeeded = bool(result.ok.any())
        # Report before output: whoever sees the new output can already see which rows of it count.
        if succeeded and not result.ok.all():
            self.mask = write_mask(self.path, result)
        if result.failures:
            self.failures = write_failures(self.path, result)
        if succeeded or self.n_rows == 0:
            self.outputs = self._publish(result)
            remove_stale(self.path, mask=self.mask is None, failures=self.failures is None)
        else:
            self._discard()

    def close(self) -> None:
        """Let go of the files. What `finish` has not published stays as ``.partial``, unless it is empty."""
        self._partial.close()

    @abstractmethod
    def _publish(self, result: Result) -> tuple[Path, ...]:
        """Fill in rows without an answer, give the files their final names, and return these."""

    def _discard(self) -> None:
        self._partial.discard()

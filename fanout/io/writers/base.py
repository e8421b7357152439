"""What all sinks that write files have in common."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fanout.errors import ConfigError
from fanout.files import ANEW, Publication, make_folder
from fanout.io.writers.report import make_failures, make_mask
from fanout.paths import KEY, check_names, report_paths, unwritable
from fanout.rowset import RowSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.types import ChunkResult, Result, Schema


class Earlier(NamedTuple):
    """What an earlier process has left in a sink's files."""

    form: Schema | None = None
    """What the answers look like; None if there is none yet."""

    ok: RowSet = RowSet()
    """Rows whose answers are there."""

    notes: Sequence[Any] = ()
    """What `FileSink.sync` gave, in order."""


class Move(NamedTuple):
    """Rows whose answers are kept, and the number that the first of them has from now on."""

    start: int
    stop: int
    to: int


class FileSink(ABC):
    """A sink that writes ``path``, and beside it which rows have no answer and why.

    An earlier output stays in place until the new one is whole. Rows without an answer hold a fill value. Where no
    row succeeded there is nothing to put in its place: it stays, with its mask; only the failures are written.

    Args:
        path: the output file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outputs: tuple[Path, ...] = ()
        """Files with the answers; filled in by `finish`."""
        self.mask: Path | None = None
        """File that tells which rows have an answer, where not all have."""
        self.failures: Path | None = None
        """File that tells why rows failed, where some did."""
        self.finished_rows: int | None = None
        """Rows that `finish` has put in their place so far; None before it is called."""

    def open(self, n_rows: int | None, earlier: Earlier | None = None) -> None:
        """Make the files, and the folder where it is missing; or open those that an earlier process has left.

        Args:
            n_rows: rows of the whole input; None: not known before its end.
            earlier: what is there already, if it is to be kept.

        Raises:
            ConfigError: the files cannot be made, another process is writing them, or what ``earlier`` tells of is not
                there; its ``key`` is ``"output.path"``.
        """
        check_names(self.path)
        try:
            make_folder(self.path.parent)
            self._open(n_rows, earlier or Earlier())
        except BlockingIOError:
            raise ConfigError(f"another run is writing {self.path} at this moment", key=KEY) from None
        except OSError as error:
            raise unwritable(self.path, error.strerror or str(error)) from None

    @abstractmethod
    def write(self, done: Sequence[ChunkResult]) -> None:
        """Take some chunks, in any order of rows. Called on a helper thread, one call at a time.

        An `OSError` raised here stops the run (kind ``"output"``).
        """

    @abstractmethod
    def sync(self) -> Any:
        """Return when all that was written is on the disk, with a note for the journal (JSON) if one is needed.

        Raises `OSError`; nothing may be written after that.
        """

    def finish(self, result: Result, replaced: Sequence[Path] = ()) -> Publication:
        """Make every file whole and durable under a temporary name: once, after the run. Raises `OSError`.

        ``replaced`` are the files of an earlier run that are to go where this one has others.

        The sink may be used no more, but for `close` after the publication has been carried out.
        """
        self.finished_rows = 0
        succeeded = bool(result.ok.any())
        mask, failures = report_paths(self.path)
        moves = []
        # Report before output: whoever sees the new output can already see which rows of it count.
        if succeeded and not result.ok.all():
            moves.append(make_mask(mask, result))
        if result.failures:
            moves.append(make_failures(failures, result))
        outdated: list[Path] = []
        if succeeded or not len(result.ok):
            values = self._finish(result)
            moves += values
            new = {target for _, target in moves}
            # The values first: without them a mask misleads no one.
            reports = [mask.resolve(), failures.resolve()]
            old = dict.fromkeys([self.path.resolve(), *replaced, *reports])
            stale = [path for path in old if path not in new and path.exists()]
            stale.sort(key=reports.__contains__)
            if len(moves) > 1 or stale:
                outdated = [*(target for _, target in values), *stale]
        publication = Publication(tuple(moves), self._temporary(), tuple(outdated))
        self.recall(publication)
        return publication

    def recall(self, publication: Publication) -> None:
        """Take note of what was published, now or by an earlier process."""
        targets = [target for _, target in publication.moves]
        report = mask, failures = tuple(path.resolve() for path in report_paths(self.path))
        self.mask = self._shown(mask) if mask in targets else None
        self.failures = self._shown(failures) if failures in targets else None
        self.outputs = tuple(self._shown(path) for path in targets if path not in report)

    def _shown(self, path: Path) -> Path:
        """A path as the user wrote the output's."""
        return path if self.path.is_absolute() else Path(os.path.relpath(path))

    @abstractmethod
    def _open(self, n_rows: int | None, earlier: Earlier) -> None:
        """`open`, less what all sinks have in common. Raises `OSError`, `FileNotFoundError` for what is not there."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the files. What has not been published stays as ``.partial``, unless it is empty."""

    @abstractmethod
    def _finish(self, result: Result) -> list[tuple[Path, Path]]:
        """Make the outputs whole and durable; their temporary and final names."""

    @abstractmethod
    def _temporary(self) -> tuple[Path, ...]:
        """Files that are needed no more once the outputs are published."""

    @abstractmethod
    def adopt(self, earlier: Earlier, moves: Sequence[Move], *, published: bool) -> tuple[list[Any], Publication]:
        """Make the files that `open` is to find, on the disk, of answers that are there already.

        Args:
            earlier: what is there.
            moves: the rows to keep, sorted by the number that they have now.
            published: the answers are in the output, not in the file of an unfinished run.

        Returns:
            The notes that go with the files, and how these get their names: those of an unfinished run are still there.

        Raises:
            OSError: they cannot be read or written.
            ConfigError: what is there is not what ``earlier`` tells of.
        """


def other_bytes(path: Path, start: int, stop: int) -> ConfigError:
    """The error to raise where a file does not hold the bytes that the journal has noted."""
    what = f"the answers to rows {start}:{stop} in {path} are not those that the journal has noted (checksum)"
    return ConfigError(f"{what}: put the file back as it was, or {ANEW}", key=KEY)

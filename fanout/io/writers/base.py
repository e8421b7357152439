"""The interface of a sink that writes files, and the report beside its output: which rows failed, and why."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from fanout._escape import safe_json
from fanout.errors import ConfigError
from fanout.files import PRIVATE, START_FRESH, PartialFile, make_folder
from fanout.io.kept import KEEP
from fanout.io.publication import Publication
from fanout.paths import KEY, check_names, report_paths, unwritable
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.io.kept import KeptColumns
    from fanout.io.remote.destination import Destination
    from fanout.results import ChunkResult, Failure, Result
    from fanout.types import Schema


class Checkpoint(NamedTuple):
    """The answers that an earlier process has left in a sink's files.

    Attributes:
        schema: dtypes and shapes of the outputs; None before the first answer.
        ok: rows that have an answer.
        notes: the values that `FileSink.sync` returned, in order.
        layout: the columns of the published file, as `Publication.layout`.
    """

    schema: Schema | None = None
    ok: RowSet = RowSet()
    notes: Sequence[Any] = ()
    layout: Mapping[str, Any] | None = None


class Move(NamedTuple):
    """The rows ``start <= i < stop``, whose answers are kept, and the new number of the first of them."""

    start: int
    stop: int
    to: int


class FileSink(ABC):
    """A sink that writes ``path``, and beside it a mask of the rows with an answer and a list of failures.

    An earlier output stays in place until the new one is whole. Rows without an answer hold a fill value. If no row
    succeeded, only the failures are written, and an earlier output stays with its mask.

    Args:
        path: the output file.

    Attributes:
        outputs: files with the answers; empty before `finish`.
        mask: file with the mask; None if all rows have an answer.
        failures: file with the reasons; None if no row failed.
        finished_rows: rows that `finish` has assembled so far; None before it is called.
        journalled: whether the run has a journal, for which `sync` returns notes.
        destination: where `outputs`, `mask` and `failures` are uploaded once they are in place; None for local outputs.
        observe: called with the chunks of each `write` after it, on the same thread; it must not raise.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.observe: Callable[[Sequence[ChunkResult]], None] | None = None
        self.outputs: tuple[Path, ...] = ()
        self.mask: Path | None = None
        self.failures: Path | None = None
        self.finished_rows: int | None = None
        self.journalled = True
        self.destination: Destination | None = None

    def open(self, n_rows: int | None, checkpoint: Checkpoint | None = None, *, journalled: bool = True) -> None:
        """Create the files, and the folder if it is missing; or open those that an earlier process has left.

        Args:
            n_rows: rows of the whole input; None if only its end shows it.
            checkpoint: the answers to keep.
            journalled: False if `sync` will not be called, so that its notes need not be kept.

        Raises:
            ConfigError: the files cannot be created, another process writes them, or they do not hold the answers of
                ``checkpoint``; its ``key`` is ``"output.path"``.
        """
        self.journalled = journalled
        # A folder or a link may have taken a file's name since the sink was made.
        check_names(self.path)
        # Before the first request is paid for: the store may be out of reach since the job was checked.
        if self.destination is not None:
            self.destination.require_writable()
        try:
            make_folder(self.path.parent)
            self._open(n_rows, checkpoint or Checkpoint())
        except BlockingIOError:
            raise ConfigError(f"another run is writing {self.path} at this moment", key=KEY) from None
        except OSError as error:
            raise unwritable(self.path, error.strerror or str(error)) from None

    def keep(self, columns: KeptColumns) -> None:
        """Write columns of the input beside the answers. Called before `open`.

        Raises:
            ConfigError: the format has no columns, or cannot hold these; its ``key`` is ``"output.keep"``.
        """
        others = "write to a .parquet, .arrow, .csv or .jsonl file"
        raise ConfigError(f"{self.path.name} holds answers alone, so it cannot keep columns: {others}", key=KEEP)

    def require_writable(self, schema: Schema) -> None:
        """Raise `ConfigError` if the format cannot hold outputs of these dtypes and shapes."""
        return

    def is_outdated(self, published: Checkpoint) -> bool:
        """Return True if the output in place has other columns than this sink would write now.

        Raises:
            ConfigError: it cannot be given these columns.
        """
        return False

    @abstractmethod
    def write(self, results: Sequence[ChunkResult]) -> None:
        """Write some chunks, in any order of rows. Called on a helper thread, one call at a time.

        An `OSError` raised here stops the run (kind ``"output"``).
        """

    @abstractmethod
    def sync(self) -> Any:
        """Return when all that was written is on the disk, with a note for the journal (JSON), or None.

        Raises `OSError`; nothing may be written after that.
        """

    def finish(self, result: Result, replaced: Sequence[Path] = ()) -> Publication:
        """Make every file whole and durable under a temporary name: once, after the run. Raises `OSError`.

        ``replaced`` are files of an earlier run that must not stay beside the new ones. After this, only `close` may
        be called, once the publication has been carried out.
        """
        self.finished_rows = 0
        succeeded = bool(result.ok.any())
        mask, failures = report_paths(self.path)
        moves = []
        # The report is renamed before the output: a reader who sees the new output can see which of its rows count.
        if succeeded and not result.ok.all():
            moves.append(_write_mask(mask, result))
        if result.failures:
            moves.append(_write_failures(failures, result))
        outdated: list[Path] = []
        # A run over no rows has an empty output; a run without any answer has none.
        if succeeded or not len(result.ok):
            values = self._finish(result)
            moves += values
            new = {target for _, target in moves}
            reports = [mask.resolve(), failures.resolve()]
            old = dict.fromkeys([self.path.resolve(), *replaced, *reports])
            stale = [path for path in old if path not in new and path.exists()]
            # Values are removed before their mask: without it, failed rows would look like answers.
            stale.sort(key=reports.__contains__)
            # A single file is replaced by one rename, and the old one stays until then.
            if len(moves) > 1 or stale:
                outdated = [*(target for _, target in values), *stale]
        publication = Publication(tuple(moves), self._temporary_files(), tuple(outdated), self._layout_as_json())
        self.set_published(publication)
        return publication

    def set_published(self, publication: Publication) -> None:
        """Set `outputs`, `mask` and `failures` to the files that were published, now or by an earlier process."""
        targets = [target for _, target in publication.moves]
        reports = mask, failures = tuple(path.resolve() for path in report_paths(self.path))
        self.mask = self._as_given(mask) if mask in targets else None
        self.failures = self._as_given(failures) if failures in targets else None
        self.outputs = tuple(self._as_given(path) for path in targets if path not in reports)

    @property
    def published_files(self) -> tuple[Path, ...]:
        """The files that the last publication has put in place: mask and failures, then the values."""
        return tuple(path for path in (self.mask, self.failures, *self.outputs) if path is not None)

    def _as_given(self, path: Path) -> Path:
        """Return a path relative or absolute, as the user wrote the output's."""
        return path if self.path.is_absolute() else Path(os.path.relpath(path))

    @abstractmethod
    def close(self) -> None:
        """Close the files. Those that were not published stay as ``.partial``, unless they are empty."""

    @abstractmethod
    def rebuild(
        self, checkpoint: Checkpoint, moves: Sequence[Move], *, published: bool
    ) -> tuple[list[Any], Publication]:
        """Write the files that `open` expects, durably, from answers that exist already.

        Args:
            checkpoint: the answers.
            moves: the rows to keep, sorted by their present numbers.
            published: True if the answers are in the output, not in the files of an unfinished run.

        Returns:
            The notes for the new files, and the renames that put them in place of an unfinished run's.

        Raises:
            OSError: the files cannot be read or written.
            ConfigError: they do not hold the answers of ``checkpoint``.
        """

    @abstractmethod
    def _open(self, n_rows: int | None, checkpoint: Checkpoint) -> None:
        """Do the part of `open` that depends on the format. Raises `OSError`, `FileNotFoundError` for missing files."""

    @abstractmethod
    def _finish(self, result: Result) -> list[tuple[Path, Path]]:
        """Make the outputs whole and durable; return their temporary and final names."""

    def _layout_as_json(self) -> Mapping[str, Any] | None:
        """Return what `rebuild` has to know about the finished file; None for nothing."""
        return None

    @abstractmethod
    def _temporary_files(self) -> tuple[Path, ...]:
        """Return the files to remove once the outputs are published."""


def checksum_error(path: Path, start: int, stop: int) -> ConfigError:
    """Return the error for a file whose bytes do not have the checksum in the journal."""
    problem = f"the answers to rows {start}:{stop} in {path} are not those that the journal has noted (checksum)"
    return ConfigError(f"{problem}: put the file back as it was, or {START_FRESH}", key=KEY)


def edited_error(path: Path) -> ConfigError:
    """Return the error for an output that is not as the run has written it: its rows may stand in other places."""
    problem = f"{path} is not as the run has written it, so nothing shows which rows its answers belong to (checksum)"
    return ConfigError(f"{problem}: put the file back as it was, or {START_FRESH}", key=KEY)


def cannot_hold(name: str, problem: str, remedy: str) -> ConfigError:
    """Return the error for an output whose dtype or shape a file format cannot hold."""
    output = f'output "{name}"' if name else "the output"
    return ConfigError(f"{output} {problem}; {remedy}", key=KEY)


def _write_mask(path: Path, result: Result) -> tuple[Path, Path]:
    """Write the mask of rows that have an answer, shape (rows,), bool; return its temporary and final names."""
    data = io.BytesIO()
    np.save(data, result.ok)
    return _write_whole(path, data.getvalue())


def _write_failures(path: Path, result: Result) -> tuple[Path, Path]:
    """Write a JSON object for each range of rows that failed alike, sorted by row; return both names."""
    # Reasons quote the server and ids the input, so the file is for its owner alone.
    return _write_whole(path, b"".join(map(_failure_line, result.failures)), PRIVATE)


def _failure_line(failure: Failure) -> bytes:
    document: dict[str, Any] = {
        "start": failure.start,
        "stop": failure.stop,
        "status": failure.status,
        "attempts": failure.attempts,
        "reason": failure.reason,
        "endpoint": failure.endpoint,
    }
    if failure.ids:
        document["ids"] = list(failure.ids)
    return safe_json(document, orjson.OPT_APPEND_NEWLINE)


def _write_whole(path: Path, data: bytes, mode: int = 0o666) -> tuple[Path, Path]:
    file = PartialFile(path, mode=mode)
    try:
        file.append(data)
        file.sync()
        file.close()
    # A report is small and can be written again: half of one must not stay.
    except OSError:
        file.discard()
        raise
    return file.path, file.final

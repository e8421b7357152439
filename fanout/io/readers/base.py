"""Sources of rows: their interface, the source of a file and of several, and a part of the rows of any source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fanout.errors import InputError
from fanout.io import fingerprint
from fanout.io.kept import KEEP, KeptColumns
from fanout.rows import count_rows, take_rows
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fanout.io.kept import Pieces
    from fanout.io.readers.columns import ColumnOptions, ColumnSelection
    from fanout.io.remote.file import InputPath

BLOCK_BYTES = 512 * 1024
"""Approximate size of a block: the bytes of an input that are read at once."""

_ALL_ROWS = (slice(None), slice(0, None))


class Source(ABC):
    """Rows that are read in blocks, so that memory stays bounded for any number of rows.

    Attributes:
        n_rows: number of rows; None if only reading to the end shows it.
        repeatable: False if the rows can be read only once, as those of stdin or of a stream.
        uniform: True if all rows are known to have one dtype and shape, as those of an array have.
        files: files that the source reads; a run must not write to them.
        kept: columns to write beside the answers; None for the answers alone.
    """

    n_rows: int | None = None
    repeatable: bool = True
    uniform: bool = False
    files: tuple[InputPath, ...] = ()
    kept: KeptColumns | None = None

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield all rows in order, in blocks that are never empty; each call is another pass.

        The iterator blocks on I/O: use it on a helper thread. It raises `InputError` for input that cannot be read,
        after the blocks before it.
        """

    def blocks_from(self, row: int) -> Iterator[Block]:
        """Yield the rows from number ``row`` on. Sources that cannot seek read the rows before it too."""
        for block in self.blocks():
            n_rows = count_rows(block.rows)
            if row < n_rows:
                yield slice_block(block, row, n_rows)
            row = max(0, row - n_rows)

    def estimate_rows(self) -> int | None:
        """Return the number of rows, exact or estimated, for a progress bar; None if it is unknown. Blocks on I/O."""
        return self.n_rows

    @abstractmethod
    def fingerprint(self) -> dict[str, Any] | None:
        """Return JSON that identifies the input; None for a stream, which has no identity."""

    def keep(self, columns: ColumnOptions) -> KeptColumns:
        """Return ``columns`` for an output, to be read once more when that is put together.

        Raises:
            InputError: there is no such column, or the input has none at all.
        """
        named = ", ".join(map(str, self.files)) or "the input"
        raise InputError(f"{named} has no columns with names that could be kept: leave keep out", key=KEEP)

    def sliced(self, rows: slice) -> Source:
        """Return the source of the rows that ``rows``, a slice without a step, selects.

        Raises:
            InputError: the slice has a step, or counts from the end of an input of unknown length.
        """
        if rows.step not in (None, 1):
            raise InputError(f"rows are sent one after the other: {rows.step} cannot be the step of a slice of them")
        # The whole source keeps its fingerprint, which a slice would change.
        return self if rows in _ALL_ROWS else _Slice(self, *_bounds(rows, self.n_rows))


class SeekableSource(Source):
    """A source that can start at any row without reading the rows before it."""

    def blocks(self) -> Iterator[Block]:
        return self.blocks_from(0)

    @abstractmethod
    def blocks_from(self, row: int) -> Iterator[Block]: ...


class FileSource(SeekableSource):
    """A source of one file.

    Attributes:
        path: the file.
        schema: types and shapes of the rows, for comparison with other files and for messages.
    """

    path: InputPath
    schema: Any
    _format: str
    _selection: ColumnSelection | None = None

    @abstractmethod
    def __init__(self, path: InputPath, columns: ColumnOptions) -> None: ...

    @abstractmethod
    def kept_pieces(self, columns: ColumnOptions) -> tuple[dict[str, Any], Iterator[Pieces]]:
        """Return the type of each of ``columns``, and their pieces, which are read while they are iterated over."""

    def fingerprint(self) -> dict[str, Any]:
        selection = self._selection.as_json() if self._selection else {}
        return {"format": self._format, "file": fingerprint.of_file(self.path), **selection}


class ConcatenatedSource(SeekableSource):
    """The rows of one file after those of another.

    Raises:
        InputError: the files have different schemas.
    """

    def __init__(self, sources: Sequence[FileSource]) -> None:
        self._sources = sources
        self.files = tuple(source.path for source in sources)
        first = sources[0]
        for source in sources[1:]:
            if source.schema != first.schema:
                both = f"{source.path} holds {_listed(source.schema)}, but {first.path} holds {_listed(first.schema)}"
                raise InputError(f"{both}: files that are read as one must agree", key="input.path")
        self.uniform = all(source.uniform for source in sources)
        known = [source.n_rows for source in sources if source.n_rows is not None]
        self.n_rows = sum(known) if len(known) == len(sources) else None

    def blocks_from(self, row: int) -> Iterator[Block]:
        for source in self._sources:
            # Only reading the whole file shows how many of the rows before ``row`` it has.
            skipped = 0 if source.n_rows is None else min(row, source.n_rows)
            row -= skipped
            if skipped == source.n_rows:
                continue
            for block in source.blocks_from(skipped):
                n_rows = count_rows(block.rows)
                if row < n_rows:
                    yield slice_block(block, row, n_rows)
                row = max(0, row - n_rows)

    def keep(self, columns: ColumnOptions) -> KeptColumns:
        first = self._sources[0]
        types = first.kept_pieces(columns)[0]
        for source in self._sources[1:]:
            if (others := source.kept_pieces(columns)[0]) != types:
                both = f"{source.path} holds {_listed(others)}, but {first.path} holds {_listed(types)}"
                raise InputError(f"{both}: files whose columns are kept must agree", key=KEEP)

        def read() -> Iterator[Pieces]:
            for source in self._sources:
                yield from source.kept_pieces(columns)[1]

        has_types = not any(kind is None for kind in types.values())
        return KeptColumns(tuple(types), read, files=self.files, types=types if has_types else None)

    def fingerprint(self) -> dict[str, Any]:
        return {"files": [source.fingerprint() for source in self._sources]}


@contextmanager
def reading(
    path: InputPath, kind: str, *, key: str = "input.path", plain: tuple[type[Exception], ...]
) -> Iterator[None]:
    """Raise `InputError` for every error that occurs while ``path`` is read as ``kind``.

    ``plain`` are the exceptions whose text alone says enough; the name of any other one is added.
    """
    try:
        yield
    except InputError:
        raise
    # A damaged file makes numpy and pyarrow raise nearly anything: SyntaxError, SystemError, MemoryError.
    except Exception as error:  # noqa: BLE001
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read: {error.strerror}", key="input.path") from None
        reason = " ".join(str(error).split())
        # numpy's message quotes the bytes that it has found, which may be any.
        if "magic string" in reason:
            reason = "it does not begin as one does"
        if not isinstance(error, (*plain, OSError)):
            reason = f"{type(error).__name__}: {reason}"
        raise InputError(f"{path} cannot be read as {kind}: {reason}", key=key) from None


def _listed(schema: Any) -> str:
    if not isinstance(schema, dict):
        return str(schema)
    return ", ".join(f'"{name}": {kind}' for name, kind in schema.items())


class _Slice(SeekableSource):
    """The rows ``start <= i < stop`` of another source, numbered from 0."""

    def __init__(self, source: Source, start: int, stop: int | None) -> None:
        self._source, self._start, self._stop = source, start, stop
        self.n_rows = self._within(source.n_rows)
        self.repeatable, self.files, self.uniform = source.repeatable, source.files, source.uniform
        if source.kept is not None:
            self.kept = source.kept.sliced(start, stop)

    def blocks_from(self, row: int) -> Iterator[Block]:
        position = self._start + row
        # An empty slice must not open the source: stdin can be read only once.
        if self._stop is not None and position >= self._stop:
            return
        for block in self._source.blocks_from(position):
            n_rows = count_rows(block.rows)
            if self._stop is not None and position + n_rows >= self._stop:
                yield slice_block(block, 0, self._stop - position)
                # Return before the next block is read: it may be damaged, or may never come.
                return
            yield block
            position += n_rows

    def estimate_rows(self) -> int | None:
        return self._within(self._source.estimate_rows()) if self.n_rows is None else self.n_rows

    def fingerprint(self) -> dict[str, Any] | None:
        whole = self._source.fingerprint()
        return whole and {**whole, "rows": [self._start, self._stop]}

    def sliced(self, rows: slice) -> Source:
        if rows in _ALL_ROWS:
            return self
        # A slice of a slice is one slice of the source: equal rows have equal fingerprints, however they were selected.
        start, stop = _bounds(rows, self.n_rows)
        ends = [end for end in (self._stop, None if stop is None else self._start + stop) if end is not None]
        return _Slice(self._source, self._start + start, min(ends, default=None))

    def _within(self, n_rows: int | None) -> int | None:
        """Return how many of the first ``n_rows`` rows of the source are in the slice."""
        if n_rows is None:
            return None
        return max(0, (n_rows if self._stop is None else min(n_rows, self._stop)) - self._start)


def slice_block(block: Block, start: int, stop: int) -> Block:
    """Return the rows ``start <= i < stop`` of a block."""
    # Most blocks of a slice are whole, and need no new views.
    if start == 0 and stop >= count_rows(block.rows):
        return block
    part = slice(start, stop)
    return Block(take_rows(block.rows, part), None if block.ids is None else block.ids[part])


def rows_per_block(row_bytes: float) -> int:
    """Return how many rows of ``row_bytes`` bytes make a block."""
    return max(1, int(BLOCK_BYTES // max(1, row_bytes)))


def _bounds(rows: slice, n_rows: int | None) -> tuple[int, int | None]:
    """Return start and stop of a slice, counted from the first row."""
    # A known length resolves negative numbers, as in a list.
    if n_rows is not None:
        start, stop, _ = rows.indices(n_rows)
        return start, stop
    start = 0 if rows.start is None else rows.start
    if start < 0 or (rows.stop is not None and rows.stop < 0):
        raise InputError(
            "negative row numbers count from the end, but only reading the whole input shows where it ends: "
            "count from the start"
        )
    return start, rows.stop

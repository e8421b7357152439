"""Columns of the input that an output keeps beside the answers.

They are read anew when the output is put together, so that they pass neither through requests nor through the journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from fanout.arrow import common_type, import_pyarrow
from fanout.errors import InputError
from fanout.io import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fanout.arrow import Arrow, Piece
    from fanout.io.remote.file import InputPath

KEEP = "output.keep"
"""Key of the job file for the columns that an output keeps."""

Pieces: TypeAlias = "Mapping[str, Piece]"


class Parser(NamedTuple):
    """The type of a column whose values the input holds as texts.

    Attributes:
        parse: texts -> their values.
        arrow_type: name of the type of these values in Arrow.
    """

    parse: Callable[[list[str]], list[Any]]
    arrow_type: str


class KeptColumns:
    """Some columns of an input, for an output; each pass reads the input anew.

    Args:
        names: the columns.
        read: yields some rows of all columns at a time.
        files: files that ``read`` reads, which must not change during a pass.
        types: Arrow type of each column, where the input has Arrow's types.
        parsers: returns the parser of each column, by its values in all rows, if the input holds texts that stand for
            values.
        rows: the rows to keep, as ``start, stop``.

    Attributes:
        types: as the argument; None if only reading all rows shows a type.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[], Iterator[Pieces]],
        *,
        files: Sequence[InputPath] = (),
        types: Mapping[str, Arrow] | None = None,
        parsers: Callable[[Iterator[Pieces]], Mapping[str, Parser]] | None = None,
        rows: tuple[int, int | None] = (0, None),
    ) -> None:
        self.names = tuple(names)
        self.types = types
        self._read, self._files, self._parsers = read, tuple(files), parsers
        self._rows = rows
        # The parsers are found in a pass over all rows, which need not be repeated while the files stay the same.
        self._known: tuple[dict[InputPath, object], Mapping[str, Parser]] | None = None

    def sliced(self, start: int, stop: int | None) -> KeptColumns:
        """Return the same columns of the rows ``start <= i < stop`` of the input."""
        return KeptColumns(
            self.names, self._read, files=self._files, types=self.types, parsers=self._parsers, rows=(start, stop)
        )

    def reader(self, *, verbatim: bool = False) -> KeptReader:
        """Begin a pass. With ``verbatim``, texts that stand for values stay as they are in the file."""
        return KeptReader(self.names, self._pieces(None) if verbatim else self.pieces())

    def pieces(self) -> Iterator[Pieces]:
        """Begin a pass, which yields some rows of all columns at a time."""
        return self._pieces(self._known_parsers())

    def arrow_types(self) -> dict[str, Arrow]:
        """Return an Arrow type for each column. Reads all rows if the input has no types.

        Numbers of several types get their common type. Values that have none become texts, JSON for other values.
        """
        if self.types is not None:
            return dict(self.types)
        pa = import_pyarrow()
        types: dict[str, Arrow] = dict.fromkeys(self.names, pa.null())
        if (parsers := self._known_parsers()) is not None:
            return {name: pa.type_for_alias(parsers[name].arrow_type) for name in self.names}
        widened = set[str]()
        for pieces in self._pieces(None):
            # Arrow has no type for a column of numbers and texts, so that every row has to be looked at.
            for name, kind in types.items():
                types[name] = common_type(kind, pieces[name])
                if kind not in (pa.null(), types[name]):
                    widened.add(name)
        # Floats in later rows do not hold all integers of earlier ones.
        for pieces in self._pieces(None) if widened else ():
            types |= {name: common_type(types[name], pieces[name]) for name in widened}
        # Columns without any value are texts: few readers know a column of nulls.
        return {name: pa.string() if kind == pa.null() else kind for name, kind in types.items()}

    def _known_parsers(self) -> Mapping[str, Parser] | None:
        """Return the parser of each column; None if the input holds values."""
        if self._parsers is None:
            return None
        stamps = self._stamps()
        if self._known is None or self._known[0] != stamps:
            parsers_by_name = self._parsers(self._selected())
            # A column of no row at all has no kind.
            text = Parser(lambda values: values, "string")
            self._known = stamps, {name: parsers_by_name.get(name, text) for name in self.names}
        return self._known[1]

    def _stamps(self) -> dict[InputPath, object]:
        return {path: fingerprint.stamp(path) for path in self._files}

    def _pieces(self, parsers: Mapping[str, Parser] | None) -> Iterator[Pieces]:
        for pieces in self._selected():
            yield pieces if parsers is None else {name: parsers[name].parse(pieces[name]) for name in self.names}

    def _selected(self) -> Iterator[Pieces]:
        """Yield the pieces of the selected rows. Raises `InputError` if a file has changed in the meantime."""
        stamps = self._stamps()
        (start, stop), row = self._rows, 0
        for pieces in self._read():
            n_rows = len(next(iter(pieces.values())))
            first, last = max(0, start - row), n_rows if stop is None else min(n_rows, stop - row)
            if first < last:
                yield {name: piece[first:last] for name, piece in pieces.items()}
            row += n_rows
            # A run of the first rows need not read the rest of a large input.
            if stop is not None and row >= stop:
                break
        for path, stamp in stamps.items():
            if fingerprint.stamp(path) != stamp:
                raise InputError(f"{path} was changed while its columns were read: run again", key=KEEP)


class KeptReader:
    """One pass over kept columns, in parts of any number of rows."""

    def __init__(self, names: Sequence[str], pieces: Iterator[Pieces]) -> None:
        self._names = names
        self._pieces = pieces
        self._rest: Pieces | None = None

    def take(self, n_rows: int) -> dict[str, list[Piece]]:
        """Return the pieces of the next ``n_rows`` rows by column. Raises `InputError` if there are fewer."""
        taken: dict[str, list[Piece]] = {name: [] for name in self._names}
        while n_rows:
            pieces = self._rest if self._rest is not None else next(self._pieces, None)
            if pieces is None:
                raise InputError("the input has fewer rows than were sent: it was changed", key=KEEP)
            length = len(next(iter(pieces.values())))
            for name, piece in pieces.items():
                taken[name].append(piece if length <= n_rows else piece[:n_rows])
            self._rest = None if length <= n_rows else {name: piece[n_rows:] for name, piece in pieces.items()}
            n_rows -= min(length, n_rows)
        return taken

    def end(self) -> None:
        """Read to the end, so that a change of a file is noticed."""
        for _ in self._pieces:
            pass

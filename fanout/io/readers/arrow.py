"""Arrow's columns as rows: what Parquet and Arrow files, and Arrow tables in Python, have in common."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fanout.arrow import missing_pyarrow
from fanout.errors import InputError
from fanout.io.readers.base import rows_in_block
from fanout.io.readers.columns import choose, cut_into, with_missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from fanout.io.readers.columns import Column
    from fanout.types import Block

Arrow: TypeAlias = Any
"""An object of pyarrow, which has no types: an optional dependency that costs 0.1 s to import."""

_INDEX = "__index_level_"
"""What pandas calls a frame's index in a file: not among the columns that a user knows of."""


def pyarrow() -> Arrow:
    """The module. Raises `InputError` where it is not installed or too old."""
    if (missing := missing_pyarrow()) is not None:
        raise InputError(f"Parquet and Arrow need {missing}", key="input.path")
    import pyarrow as pa

    return pa


@contextmanager
def reading_arrow(path: Path, what: str) -> Iterator[None]:
    """Raise `InputError` for whatever shows as a file is read: a damaged one makes pyarrow raise almost anything."""
    pa = pyarrow()
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - also SystemError, UnicodeDecodeError, MemoryError
        text = getattr(error, "strerror", None) or " ".join(str(error).split())
        if not isinstance(error, pa.ArrowException | OSError):
            text = f"{type(error).__name__}: {text}"
        raise InputError(f"{path} cannot be read as {what}: {text}", key="input.path") from None


def validated(batches: Iterable[Arrow], n_rows: int | None = None) -> Iterator[Arrow]:
    """The record batches of a file, each looked at whole before any value is read.

    pyarrow believes the offsets in a file. Damaged ones point at foreign memory, which would be sent as text, or at
    none, which ends the process.

    Raises:
        ArrowException: an offset, a length or a text is damaged.
        ValueError: there are not ``n_rows`` rows, where that is given.
    """
    there = 0
    for batch in batches:
        if batch.num_rows < 0:
            raise ValueError(f"a record batch of {batch.num_rows} rows")
        batch.validate(full=True)
        there += batch.num_rows
        yield batch
    if n_rows is not None and there != n_rows:
        raise ValueError(f"it has {there} rows where its metadata says {n_rows}")


class Selection:
    """The columns of a schema that make the rows and the ids.

    Fields of structs are named with a dot: ``"document.text"``.

    Raises:
        InputError: a column that is not there, or that holds what no request can be made of.
    """

    def __init__(
        self,
        schema: Arrow,
        column: str | Sequence[str] | None,
        id: str | None,  # noqa: A002
        file: str,
    ) -> None:
        held = [name for name in schema.names if not name.startswith(_INDEX)]
        nested = {name: path for field in schema for name, path in _fields(field)}
        self.file = file
        self.columns = choose(held, column, id, file=file, nested=nested)
        self._paths = {name: nested.get(name, (name,)) for name in self.columns.all}
        types = {name: _type_at(schema, path) for name, path in self._paths.items()}
        for name in self.columns.names:
            _require_sendable(types[name], name, file)
        self.form = {name: form(types[name]) for name in self.columns.names}

    @property
    def top(self) -> list[str]:
        """The columns that must be read for it."""
        return list(dict.fromkeys(path[0] for path in self._paths.values()))

    @property
    def leaves(self) -> list[str]:
        """The same, or the fields of them that are needed, with dots."""
        return list(self._paths)

    def blocks_from(self, row: int, batches: Iterable[Arrow], first_row: int = 0) -> Iterator[Block]:
        """Record batches in blocks, from ``row`` on; the first row of the first one has the number ``first_row``."""
        for batch in batches:
            if row < first_row + batch.num_rows:
                skipped = max(0, row - first_row)
                yield from self.blocks(batch.slice(skipped), first_row + skipped)
            first_row += batch.num_rows

    def blocks(self, batch: Arrow, first_row: int) -> Iterator[Block]:
        """A record batch in blocks; its first row has the number ``first_row``."""
        size = rows_in_block(batch.select(self.top).nbytes / max(1, batch.num_rows))
        for start in range(0, batch.num_rows, size):
            yield self.block(batch.slice(start, size), first_row + start)

    def block(self, batch: Arrow, first_row: int = 0) -> Block:
        """The rows and ids of a record batch."""
        taken = {name: values(_column_at(batch, path)) for name, path in self._paths.items()}
        return self.columns.block(taken, self.file, first_row)


def values(array: Arrow) -> Column:
    """An Arrow array as a column: numbers, bools and lists of one length of them as an array; else a list.

    A null is None in a list, next to numpy's scalars or arrays where the others are numbers.
    """
    pa = pyarrow()
    if isinstance(array.type, pa.BaseExtensionType):
        return _of_extension(array)
    is_dictionary = pa.types.is_dictionary(array.type)
    if not _is_numeric(_leaf(array.type.value_type if is_dictionary else array.type)):
        others: Column = array.to_pylist()
        return others
    if is_dictionary:
        return values(array.dictionary_decode())
    if array.null_count:
        missing = np.array(array.is_null().to_numpy(zero_copy_only=False), bool)
        return with_missing(values(array.drop_null()), missing)
    if _is_numeric(array.type):
        numbers: Column = array.to_numpy(zero_copy_only=False)
        return numbers
    is_fixed = pa.types.is_fixed_size_list(array.type)
    lengths = np.full(len(array), array.type.list_size) if is_fixed else array.value_lengths().to_numpy()
    return cut_into(values(array.flatten()), lengths)


def form(kind: Arrow) -> str:
    """A type in words that are the same for all types that make the same rows."""
    pa = pyarrow()
    if isinstance(kind, pa.BaseExtensionType):
        return form(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return form(kind.value_type)
    if _is_text(kind):
        return "texts"
    if pa.types.is_fixed_size_list(kind):
        return f"lists of {kind.list_size} ({form(kind.value_type)})"
    if _is_list(kind):
        return f"lists ({form(kind.value_type)})"
    return str(kind).removeprefix("large_")


def _of_extension(array: Arrow) -> Column:
    storage = values(array.storage)
    shape = getattr(array.type, "shape", None)  # of a fixed shape tensor, which is stored flat
    if shape is None or not isinstance(storage, np.ndarray):
        return storage
    return storage.reshape(len(storage), *shape)


def _fields(field: Arrow, above: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The fields of structs below a field: name with dots, path."""
    path = (*above, field.name)
    if above:
        yield ".".join(path), path
    if pyarrow().types.is_struct(field.type):
        for inner in field.type:
            yield from _fields(inner, path)


def _type_at(schema: Arrow, path: tuple[str, ...]) -> Arrow:
    kind = schema.field(path[0]).type
    for name in path[1:]:
        kind = kind.field(name).type
    return kind


def _column_at(batch: Arrow, path: tuple[str, ...]) -> Arrow:
    import pyarrow.compute as pc

    column = batch.column(path[0])
    for name in path[1:]:
        column = pc.struct_field(column, name)  # null where the struct is
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column


def _require_sendable(kind: Arrow, name: str, file: str) -> None:
    if not _is_sendable(kind):
        raise InputError(
            f'column "{name}" of {file} has the type {kind}, of which no request can be made; cast it to numbers or '
            "texts first",
            key="input.column",
        )


def _is_sendable(kind: Arrow) -> bool:
    pa = pyarrow()
    if isinstance(kind, pa.BaseExtensionType):
        # A tensor with its axes in another order than their names are would come out transposed.
        return not getattr(kind, "permutation", None) and _is_sendable(kind.storage_type)
    if pa.types.is_dictionary(kind) or _is_list(kind):
        return _is_sendable(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_sendable(field.type) for field in kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return _is_numeric(kind) or _is_text(kind) or is_bytes or bool(pa.types.is_null(kind))


def _is_numeric(kind: Arrow) -> bool:
    types = pyarrow().types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_list(kind: Arrow) -> bool:
    types = pyarrow().types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _leaf(kind: Arrow) -> Arrow:
    """What lists of lists hold in the end."""
    while _is_list(kind):
        kind = kind.value_type
    return kind


def _is_text(kind: Arrow) -> bool:
    types = pyarrow().types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))

"""Arrow columns as rows: shared by Parquet and Arrow files, and by Arrow tables in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fanout.arrow import import_pyarrow
from fanout.errors import InputError
from fanout.io.readers.base import rows_per_block
from fanout.io.readers.columns import select_columns
from fanout.io.readers.rows import insert_missing, split_by_lengths

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fanout.arrow import Arrow
    from fanout.io.readers.columns import ColumnOptions
    from fanout.io.readers.rows import Column
    from fanout.types import Block

# pandas writes a frame's index into columns of such names, which a user does not know of.
_PANDAS_INDEX = "__index_level_"


def pyarrow() -> Arrow:
    """Return the module. Raises `InputError` if it is not installed or too old."""
    try:
        return import_pyarrow()
    except ImportError as error:
        raise InputError(f"Parquet and Arrow need {error}", key="input.path") from None


class ArrowColumns:
    """The columns of an Arrow schema that make the rows and the ids.

    Fields of structs are named with a dot: ``"document.text"``.

    Attributes:
        selection: the columns by name.
        schema: type of each column of the rows, in words.
        paths: the columns and fields to read, with dots.
        top_level: the columns that contain them.

    Raises:
        InputError: a column does not exist, or holds values that no request can hold although it is ``sent``.
    """

    def __init__(self, schema: Arrow, columns: ColumnOptions, file: str, *, sent: bool = True) -> None:
        names = [name for name in schema.names if not name.startswith(_PANDAS_INDEX)]
        # Fields of structs are columns of their own, named by their path.
        nested = {name: path for field in schema for name, path in _nested_fields(field)}
        self._file = file
        self._schema = schema
        self.selection = select_columns(names, columns, file=file, nested=nested)
        self._paths = {name: nested.get(name, (name,)) for name in self.selection.all}
        self.paths = list(self._paths)
        self.top_level = list(dict.fromkeys(path[0] for path in self._paths.values()))
        self.schema: dict[str, str] = {}
        for name in self.selection.names:
            kind = _type_at(schema, self._paths[name])
            if sent and not _is_sendable(kind):
                problem = f'column "{name}" of {file} has the type {kind}, which no request can hold'
                raise InputError(f"{problem}; cast it to numbers or texts first", key="input.column")
            self.schema[name] = type_in_words(kind)

    @property
    def kept_types(self) -> dict[str, Arrow]:
        """Type of each column, for an output that keeps it."""
        types = {name: _type_at(self._schema, self._paths[name]) for name in self.selection.names}
        is_dictionary = pyarrow().types.is_dictionary
        return {name: kind.value_type if is_dictionary(kind) else kind for name, kind in types.items()}

    def pieces(self, batch: Arrow) -> dict[str, Arrow]:
        """Return the columns of a record batch as they are."""
        columns = {name: _column_at(batch, self._paths[name]) for name in self.selection.names}
        # Record batches have dictionaries of their own, which a file of one schema cannot hold.
        is_dictionary = pyarrow().types.is_dictionary
        return {name: one.dictionary_decode() if is_dictionary(one.type) else one for name, one in columns.items()}

    def blocks_from(self, row: int, batches: Iterable[Arrow], first_row: int = 0) -> Iterator[Block]:
        """Yield record batches as blocks, from ``row`` on; ``first_row`` is the number of the first batch's first."""
        for batch in batches:
            if row < first_row + batch.num_rows:
                skipped = max(0, row - first_row)
                yield from self.blocks(batch.slice(skipped), first_row + skipped)
            first_row += batch.num_rows

    def blocks(self, batch: Arrow, first_row: int) -> Iterator[Block]:
        # A record batch may be the whole file: its blocks are slices, which share its memory.
        size = rows_per_block(batch.select(self.top_level).nbytes / max(1, batch.num_rows))
        for start in range(0, batch.num_rows, size):
            yield self.block(batch.slice(start, size), first_row + start)

    def block(self, batch: Arrow, first_row: int = 0) -> Block:
        """Return the rows and ids of a record batch."""
        columns = {name: values(_column_at(batch, path)) for name, path in self._paths.items()}
        return self.selection.block(columns, self._file, first_row)


def values(array: Arrow) -> Column:
    """Return an Arrow array as a column: an array for numbers, bools and lists of them of one length; else a list.

    A null is None in a list, next to numpy scalars or arrays if the other values are numbers.
    """
    pa = pyarrow()
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _storage_values(array)
    if pa.types.is_dictionary(kind):
        # Texts are looked up one by one, which needs no copy of the decoded array.
        return values(array.dictionary_decode()) if _holds_numbers(kind.value_type) else _python_values(array)
    if not _holds_numbers(kind):
        return _python_values(array)
    if array.null_count:
        missing = np.array(array.is_null().to_numpy(zero_copy_only=False), bool)
        return insert_missing(values(array.drop_null()), missing)
    if _is_number(kind):
        numbers: Column = array.to_numpy(zero_copy_only=False)
        return numbers
    # A list of a fixed length has no offsets, so its lengths are not stored.
    is_fixed = pa.types.is_fixed_size_list(kind)
    lengths = np.full(len(array), kind.list_size) if is_fixed else array.value_lengths().to_numpy()
    return split_by_lengths(values(array.flatten()), lengths)


def type_in_words(kind: Arrow) -> str:
    """Return the same words for all types that make the same rows, so that files can be compared."""
    pa = pyarrow()
    if isinstance(kind, pa.BaseExtensionType):
        return type_in_words(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return type_in_words(kind.value_type)
    if _is_text(kind):
        return "texts"
    if pa.types.is_fixed_size_list(kind):
        return f"lists of {kind.list_size} ({type_in_words(kind.value_type)})"
    if _is_list(kind):
        return f"lists ({type_in_words(kind.value_type)})"
    # Types with offsets of 64 bits hold the same values.
    return str(kind).removeprefix("large_")


def _python_values(array: Arrow) -> Column:
    column: Column = array.to_pylist()
    return column


def _storage_values(array: Arrow) -> Column:
    storage = values(array.storage)
    # A fixed shape tensor is stored as a flat list.
    shape = getattr(array.type, "shape", None)
    if shape is None or not isinstance(storage, np.ndarray):
        return storage
    return storage.reshape(len(storage), *shape)


def _nested_fields(field: Arrow, parents: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the fields of structs inside a field: name with dots, path."""
    path = (*parents, field.name)
    if parents:
        yield ".".join(path), path
    if pyarrow().types.is_struct(field.type):
        for inner in field.type:
            yield from _nested_fields(inner, path)


def _type_at(schema: Arrow, path: tuple[str, ...]) -> Arrow:
    kind = schema.field(path[0]).type
    for name in path[1:]:
        kind = kind.field(name).type
    return kind


def _column_at(batch: Arrow, path: tuple[str, ...]) -> Arrow:
    import pyarrow.compute as pc

    column = batch.column(path[0])
    for name in path[1:]:
        # Unlike StructArray.field, this is null if the struct is.
        column = pc.struct_field(column, name)
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column


def _is_sendable(kind: Arrow) -> bool:
    pa = pyarrow()
    if isinstance(kind, pa.BaseExtensionType):
        # The values of a tensor with permuted axes are stored in another order: its rows would be transposed.
        return not getattr(kind, "permutation", None) and _is_sendable(kind.storage_type)
    if pa.types.is_dictionary(kind) or _is_list(kind):
        return _is_sendable(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_sendable(field.type) for field in kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return _is_number(kind) or _is_text(kind) or is_bytes or bool(pa.types.is_null(kind))


def _holds_numbers(kind: Arrow) -> bool:
    """Return True for numbers, lists of numbers, lists of lists of them, and so on."""
    while _is_list(kind):
        kind = kind.value_type
    return _is_number(kind)


def _is_number(kind: Arrow) -> bool:
    types = pyarrow().types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_list(kind: Arrow) -> bool:
    types = pyarrow().types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_text(kind: Arrow) -> bool:
    types = pyarrow().types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))

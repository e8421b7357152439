"""The columns of an output: their names, and their rows as bytes for the spool.

The bytes are quick to write a few rows at a time, and to join into whole columns. The layout of a range of rows: a byte
of flags; the mask of rows with an answer, left out if all have one; the ids as JSON, with their length before it; for
each output the values of the rows with an answer. Numbers are the bytes of their array. Texts are the lengths of all of
them, then their UTF-8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.arrow import LENGTH, as_text
from fanout.frames import ERROR, VALUE, answer_columns, free_name
from fanout.options import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fanout.types import Array, Schema, Values

ID = "id"
"""Column of the rows' ids."""

# The flags of the ids, of all ranges together, decide the type of the id column.
SOME_ABSENT, HAS_IDS, INT_IDS, NEGATIVE_IDS, LARGE_IDS, TEXT_IDS = (1 << i for i in range(6))

_ID_BYTES = 4
_INT64 = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The names of an output's columns, in their order: `id`, `kept`, `outputs`, `error`.

    Attributes:
        id: column of the ids; None if the rows have none, or if a kept column of that name takes its place.
        outputs: output -> its column.
        safe: texts are written so that no spreadsheet computes them; see `fanout.open_sink`.
        has_ids: the rows have ids.
    """

    id: str | None = None
    kept: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    error: str = ERROR
    safe: bool = False
    has_ids: bool = False

    @property
    def names(self) -> list[str]:
        return [*((self.id,) if self.id else ()), *self.kept, *self.outputs.values(), self.error]

    def as_json(self) -> dict[str, Any]:
        """Return what is needed to read answers back from a published file, and to compare its columns with others."""
        columns = {"id": self.id, "kept": list(self.kept), "outputs": dict(self.outputs)}
        return {**columns, "safe": self.safe, "has_ids": self.has_ids}


def layout_of(
    outputs: Iterable[str],
    rename: Mapping[str, str] | None = None,
    *,
    kept: Sequence[str] = (),
    has_ids: bool = False,
    safe: bool = False,
) -> Layout:
    """Return the columns of an output file.

    Kept columns have the names that they have in the input. Other columns get ``_`` appended if their name is taken.
    ``id`` and ``error`` are reserved even if the rows have no ids: the name of an output must not depend on the input.
    """
    # Before the outputs, whose names may give way: a reader finds the reasons under one name in every output.
    error = free_name(ERROR, {*kept, ID})
    wanted = {name: (rename or {}).get(name or VALUE, name) for name in outputs}
    return Layout(
        # A kept column of this name is the user's own, and most often holds the same ids.
        id=ID if has_ids and ID not in kept else None,
        kept=tuple(kept),
        outputs=answer_columns(wanted, {*kept, ID, error}),
        error=error,
        safe=safe,
        has_ids=has_ids,
    )


def unknown_output(rename: Mapping[str, str], outputs: Iterable[str]) -> str | None:
    """Describe the first name in ``rename`` that is no output; None if all are."""
    known = [name or VALUE for name in outputs]
    for name in rename:
        if name not in known:
            listed = ", ".join(f'"{one}"' for one in known)
            return f'there is no output "{name}" to rename{did_you_mean(name, known)}; the outputs are {listed}'
    return None


def pack(values: Values, ok: Array, ids: list[Any] | None) -> bytes:
    """Return some rows as bytes.

    Args:
        values: of the rows with an answer alone.
        ok: the mask of rows with an answer; shape (rows,), bool.
        ids: of all rows; None if the input has none.
    """
    flags = 0
    parts: list[bytes | memoryview] = [b""]
    if not ok.all():
        flags |= SOME_ABSENT
        parts.append(ok.tobytes())
    if ids is not None:
        id_flags, ids = _storable_ids(ids)
        flags |= HAS_IDS | id_flags
        data = orjson.dumps(ids)
        parts += [len(data).to_bytes(_ID_BYTES, "little"), data]
    for column in values.values():
        if is_text(column.dtype):
            texts = [text.encode() for text in column.reshape(-1).tolist()]
            parts += [np.fromiter(map(len, texts), LENGTH, len(texts)).tobytes(), *texts]
        else:
            values_in_order = np.ascontiguousarray(column, column.dtype.newbyteorder("="))
            parts.append(values_in_order.reshape(-1).view(np.uint8).data)
    # One join copies every value once.
    parts[0] = bytes([flags])
    return b"".join(parts)


class PackedColumns:
    """Consecutive rows in columns, joined from the bytes of their ranges.

    Attributes:
        n_rows: number of rows, with and without an answer.
        n_bytes: size of the bytes.
        ids: the rows' ids, None for rows without one.
    """

    def __init__(self, schema: Schema) -> None:
        self.n_rows = self.n_bytes = 0
        self.ids: list[Any] = []
        self._schema = schema
        self._masks: list[Array] = []
        self._values: dict[str, list[memoryview]] = {name: [] for name in schema}
        self._lengths: dict[str, list[memoryview]] = {name: [] for name in schema}

    def add_absent(self, n_rows: int) -> None:
        """Append rows that have neither answers nor ids."""
        self.n_rows += n_rows
        self.ids += [None] * n_rows
        self._masks.append(np.zeros(n_rows, bool))

    def add(self, n_rows: int, data: bytes) -> None:
        """Append rows from the bytes that `pack` made of them."""
        flags, view, at = data[0], memoryview(data), 1
        mask = np.ones(n_rows, bool)
        if flags & SOME_ABSENT:
            mask = np.frombuffer(data, bool, n_rows, at)
            at += n_rows
        ids: list[Any] = [None] * n_rows
        if flags & HAS_IDS:
            start = at + _ID_BYTES
            at = start + int.from_bytes(view[at:start], "little")
            ids = orjson.loads(view[start:at])
        self.n_rows += n_rows
        self.n_bytes += len(data)
        self.ids += ids
        self._masks.append(mask)
        # Rows that all failed may come before the first answer, whose schema is then unknown to their bytes.
        if n_present := int(mask.sum()):
            self._add_values(view[at:], n_present)

    def _add_values(self, view: memoryview, n_present: int) -> None:
        at = 0
        for name, (dtype, shape) in self._schema.items():
            n_bytes = n_present * math.prod(shape) * dtype.itemsize
            if is_text(dtype):
                lengths = view[at : at + n_present * math.prod(shape) * LENGTH.itemsize]
                self._lengths[name].append(lengths)
                at += len(lengths)
                n_bytes = int(np.frombuffer(lengths, LENGTH).sum(dtype=np.int64))
            self._values[name].append(view[at : at + n_bytes])
            at += n_bytes

    def ok(self) -> Array:
        """Return the mask of rows that have an answer; shape (n_rows,), bool."""
        return np.concatenate(self._masks) if self._masks else np.zeros(0, bool)

    @property
    def n_present(self) -> int:
        """Number of rows with an answer."""
        return sum(int(mask.sum()) for mask in self._masks)

    def joined(self, name: str) -> tuple[bytes, bytes]:
        """Return the bytes of an output's values in the rows with an answer, and the lengths of its texts."""
        return b"".join(self._values[name]), b"".join(self._lengths[name])

    def values(self, name: str) -> Array:
        """Return an output's values in the rows with an answer; shape (present rows, *shape of a row)."""
        dtype, shape = self._schema[name]
        if not is_text(dtype):
            pieces = self._values[name]
            # A range by itself needs no copy.
            numbers = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            return np.frombuffer(numbers, dtype.newbyteorder("=")).reshape(self.n_present, *shape)
        data, lengths = self.joined(name)
        ends = np.cumsum(np.frombuffer(lengths, LENGTH), dtype=np.int64).tolist()
        texts = [data[start:stop].decode() for start, stop in zip([0, *ends], ends, strict=False)]
        return np.array(texts, dtype).reshape(self.n_present, *shape)


def is_text(dtype: np.dtype[Any]) -> bool:
    """Return True for texts, which differ in length."""
    return dtype.kind in "TU"


def _storable_ids(ids: list[Any]) -> tuple[int, list[Any]]:
    """Return the flags of some ids, and the ids as JSON can hold them, None for a missing id."""
    kinds = set(map(type, ids)) - {type(None)}
    if kinds == {str}:
        return TEXT_IDS, ids
    # A source of a user's own may give ids as numpy scalars.
    plain = [one.item() if isinstance(one, np.generic) else one for one in ids]
    # A bool is an instance of int, but no number.
    numbers = [one for one in plain if type(one) is int]
    if len(numbers) + plain.count(None) == len(plain):
        low, high = min(numbers, default=0), max(numbers, default=0)
        if low >= -_INT64 and high < 2 * _INT64:
            signs = (NEGATIVE_IDS if low < 0 else 0) | (LARGE_IDS if high >= _INT64 else 0)
            return (INT_IDS if numbers else 0) | signs, plain
    return TEXT_IDS, [_json_id(one) for one in plain]


def _json_id(value: Any) -> Any:
    # orjson refuses integers of more than 64 bits, wherever they are.
    try:
        orjson.dumps(value)
    except TypeError:
        return as_text(value)
    return value

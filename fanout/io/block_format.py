"""The bytes of a block of answers: numbers as they are in memory, texts as JSON. Neither runs code when read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fanout.types import Array, Schema, Values

    Entry: TypeAlias = tuple[Sequence[bytes], Values]
    """Keys of requests, and the outputs of their answers."""

_STRING = np.dtypes.StringDType()
_TEXT = "str"  # StringDType has no name that numpy reads back


class BlockFormat:
    """Packs rows of one schema into blocks: the numbers of all rows, then one JSON list of their texts.

    Args:
        schema: output name -> dtype and shape of a row. Dtypes are numbers, bool and texts.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._texts = [name for name, (dtype, _) in schema.items() if dtype.kind == "T"]
        self._numbers = {f"f{place}": name for place, name in enumerate(schema) if name not in self._texts}
        # Little-endian whatever the machine, so that a file can move.
        fields: Any = [(key, schema[name][0].newbyteorder("<"), schema[name][1]) for key, name in self._numbers.items()]
        self._dtype: np.dtype[Any] = np.dtype(fields)

    @classmethod
    def parse(cls, text: str) -> BlockFormat:
        """Return the format that `text` describes. Raises `ValueError`."""
        try:
            schema = schema_from_json(orjson.loads(text))
        except (AttributeError, TypeError) as error:
            raise ValueError(f"no schema: {error}") from None
        # An object dtype could run code when its values are read.
        if not schema or any(dtype.kind not in "biufcT" for dtype, _ in schema.values()):
            raise ValueError(f"no schema of numbers and texts: {text}")
        return cls(schema)

    @property
    def text(self) -> str:
        """The schema as JSON."""
        return orjson.dumps(schema_as_json(self.schema)).decode()

    def pack(self, outputs: Values, *, most_bytes: int, most_rows: int) -> Iterator[tuple[int, bytes]]:
        """Yield the number of rows and the bytes of each block of ``outputs``, arrays of shape (rows, ...).

        Blocks have equal numbers of rows: at most ``most_rows``, and so many that the average is ``most_bytes``.
        """
        n_rows = len(next(iter(outputs.values())))
        table = np.empty(n_rows, self._dtype)
        for key, name in self._numbers.items():
            table[key] = outputs[name]
        texts: list[bytes] = []
        if self._texts:
            texts = list(map(orjson.dumps, zip(*(outputs[name].tolist() for name in self._texts), strict=True)))
        n_bytes = table.nbytes + sum(map(len, texts))
        n_blocks = max(-(-n_bytes // most_bytes), -(-n_rows // most_rows), 1)
        step = -(-n_rows // n_blocks)
        for start in range(0, n_rows, step or 1):
            numbers = table[start : start + step]
            data = numbers.tobytes()
            yield len(numbers), data + b"[%b]" % b",".join(texts[start : start + step]) if self._texts else data

    def unpack(
        self, blocks: Sequence[tuple[int, bytes]], rows: Iterable[tuple[int, int]] | None = None
    ) -> dict[str, Array]:
        """Return the arrays of some rows of ``blocks``, which can be written to.

        Args:
            blocks: the number of rows and the bytes of each.
            rows: position of the block and position in it; None takes all rows.

        Raises:
            ValueError: a block has another form.
        """
        size = self._dtype.itemsize
        views = [memoryview(data) for _, data in blocks]
        if any(len(data) != n * size if not self._texts else len(data) < n * size for n, data in blocks):
            raise ValueError(f"the rows of a block have not {size} bytes each")
        if rows is None:
            n_rows = sum(n for n, _ in blocks)
            numbers = [view[: n * size] for view, (n, _) in zip(views, blocks, strict=True)]
        else:
            rows = list(rows)
            n_rows = len(rows)
            numbers = [views[block][row * size : (row + 1) * size] for block, row in rows]
        # numpy makes no array of records without a byte, such as rows of shape (0,).
        table = np.frombuffer(bytearray().join(numbers), self._dtype) if size else np.empty(n_rows, self._dtype)
        outputs = {
            name: table[key].astype(self.schema[name][0].newbyteorder("="), copy=False)
            for key, name in self._numbers.items()
        }
        if self._texts:
            texts = [_texts_of(data[n * size :], n) for n, data in blocks]
            taken = [text for block in texts for text in block] if rows is None else [texts[b][row] for b, row in rows]
            columns = zip(*taken, strict=True) if taken else [()] * len(self._texts)
            for name, column in zip(self._texts, columns, strict=True):
                outputs[name] = np.array(list(column), _STRING).reshape(n_rows, *self.schema[name][1])
        return {name: outputs[name] for name in self.schema}


def joined(entries: Iterable[Entry], most_bytes: int) -> Iterator[tuple[BlockFormat, Sequence[bytes], Values]]:
    """Join answers of one schema until they have ``most_bytes``: those of larger chunks stay together."""
    by_schema: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        schema = tuple((name, array.dtype, array.shape[1:]) for name, array in entry[1].items())
        by_schema.setdefault(schema, []).append(entry)
    for schema, alike in by_schema.items():
        layout = BlockFormat({name: (dtype, shape) for name, dtype, shape in schema})
        start, size = 0, 0
        for stop, (_, outputs) in enumerate(alike, 1):
            size += sum(array.nbytes for array in outputs.values())
            if size >= most_bytes or stop == len(alike):
                keys, arrays = alike[start]
                if stop - start > 1:
                    keys = [key for keys, _ in alike[start:stop] for key in keys]
                    parts = [outputs for _, outputs in alike[start:stop]]
                    arrays = {name: np.concatenate([outputs[name] for outputs in parts]) for name in arrays}
                yield layout, keys, arrays
                start, size = stop, 0


def schema_as_json(schema: Schema) -> dict[str, Any]:
    """Return a schema as JSON."""
    names = {name: _TEXT if dtype.kind == "T" else dtype.str for name, (dtype, _) in schema.items()}
    return {name: [names[name], list(shape)] for name, (_, shape) in schema.items()}


def schema_from_json(document: Mapping[str, Any]) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return a schema from the JSON of `schema_as_json`. Raises `ValueError`, `TypeError` or `AttributeError`."""
    return {
        str(name): (_STRING if dtype == _TEXT else np.dtype(dtype), tuple(map(int, shape)))
        for name, (dtype, shape) in document.items()
    }


def _texts_of(data: bytes, n_rows: int) -> list[Any]:
    rows = orjson.loads(data)
    if not isinstance(rows, list) or len(rows) != n_rows:
        raise ValueError(f"a block has not the texts of {n_rows} rows")
    return rows

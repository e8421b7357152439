"""The bytes of single rows of answers: numbers as they are in memory, texts as JSON. Neither runs code when read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.types import Array, Schema, Values

_STRING = np.dtypes.StringDType()
_TEXT = "str"  # StringDType has no name that numpy reads back


class RowFormat:
    """Packs rows of one schema.

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
    def parse(cls, text: str) -> RowFormat:
        """Return the format that `text` describes. Raises `ValueError`."""
        schema = {}
        try:
            for name, (dtype, shape) in orjson.loads(text).items():
                schema[str(name)] = (_STRING if dtype == _TEXT else np.dtype(dtype), tuple(map(int, shape)))
        except (AttributeError, TypeError) as error:
            raise ValueError(f"no schema: {error}") from None
        # An object dtype could run code when its values are read.
        if not schema or any(dtype.kind not in "biufcT" for dtype, _ in schema.values()):
            raise ValueError(f"no schema of numbers and texts: {text}")
        return cls(schema)

    @property
    def text(self) -> str:
        """The schema as JSON."""
        names = {name: _TEXT if dtype.kind == "T" else dtype.str for name, (dtype, _) in self.schema.items()}
        return orjson.dumps({name: [names[name], list(shape)] for name, (_, shape) in self.schema.items()}).decode()

    def pack(self, outputs: Values) -> list[bytes]:
        """Return the bytes of each row of ``outputs``, arrays of shape (rows, ...)."""
        n_rows = len(next(iter(outputs.values())))
        size = self._dtype.itemsize
        packed = [b""] * n_rows
        if size:
            table = np.empty(n_rows, self._dtype)
            for key, name in self._numbers.items():
                table[key] = outputs[name]
            data = table.tobytes()
            packed = [data[at : at + size] for at in range(0, n_rows * size, size)]
        if not self._texts:
            return packed
        texts = zip(*(outputs[name].tolist() for name in self._texts), strict=True)
        return [numbers + orjson.dumps(row) for numbers, row in zip(packed, texts, strict=True)]

    def unpack(self, packed: Sequence[bytes]) -> dict[str, Array]:
        """Return the arrays of rows that `pack` made. Raises `ValueError` if one has another form."""
        n_rows, size = len(packed), self._dtype.itemsize
        outputs: dict[str, Array] = {name: np.empty((n_rows, *shape), dtype) for name, (dtype, shape) in self._empty()}
        heads = [row[:size] for row in packed] if self._texts else packed
        if any(len(head) != size for head in heads):
            raise ValueError(f"a row has not {size} bytes")
        if size:
            table = np.frombuffer(bytearray().join(heads), self._dtype)  # arrays that can be written to
            outputs |= {
                name: table[key].astype(self.schema[name][0].newbyteorder("="), copy=False)
                for key, name in self._numbers.items()
            }
        if self._texts:
            rows = [orjson.loads(row[size:]) for row in packed]
            columns = zip(*rows, strict=True) if rows else [()] * len(self._texts)
            for name, column in zip(self._texts, columns, strict=True):
                outputs[name] = np.array(list(column), _STRING).reshape(n_rows, *self.schema[name][1])
        return {name: outputs[name] for name in self.schema}

    def _empty(self) -> list[tuple[str, tuple[np.dtype[Any], tuple[int, ...]]]]:
        """Outputs without a byte, such as rows of shape (0,)."""
        return [] if self._dtype.itemsize else [(name, self.schema[name]) for name in self._numbers.values()]

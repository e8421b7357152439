"""The mock model: values of the right dtype and shape that depend on a seed and the row alone."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.codecs._options import ANY_OUTPUT
from fanout.errors import ConfigError
from fanout.types import TensorSpec, count_rows

if TYPE_CHECKING:
    from fanout.codecs.base import Codec
    from fanout.types import Array, Rows

_DEFAULT = np.dtype(np.float32)
_INTEGERS = 100
_MISSING = (
    "is missing: neither the codec nor the job has the shape of one row's answer; give mock.shape, such as [10] "
    "([] for one value a row), or the codec's own option shape"
)


def outputs_of(codec: Codec, given: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The specs of the model's outputs by name: those of the job, else those of the codec.

    Raises `ConfigError` for an output whose shape neither of them has.
    """
    known = codec.spec
    named = [*(codec.options.get("outputs") or ()), *known, *given]
    names = [name for name in dict.fromkeys(named) if name != ANY_OUTPUT] or [""]
    outputs = {name: _merged(_of(given, name), _of(known, name)) for name in names}
    texts = [name for name, spec in outputs.items() if spec.dtype is not None and spec.dtype.kind == "T"]
    # The finish reason of a chat stands beside its text, and comes from the server, not from the model.
    return {texts[0]: outputs[texts[0]]} if len(texts) == len(outputs) else outputs


class MockModel:
    """Gives values for rows, as `outputs_of` specifies them: floats from 0 to 1, integers below 100, short texts.

    A row has the same answer in every run with the same seed, whatever chunk it comes in.
    """

    def __init__(self, outputs: Mapping[str, TensorSpec], seed: int) -> None:
        self._outputs = outputs
        self._seed = seed.to_bytes(16, "little", signed=True)

    def __call__(self, rows: Any) -> Any:
        """One array, or output name -> array; a list where the values are texts."""
        names = list(_digests(rows, self._seed))
        outputs = {name: _values(spec, names) for name, spec in self._outputs.items()}
        return outputs[""] if outputs.keys() == {""} else outputs


def _of(specs: Mapping[str, TensorSpec], name: str) -> TensorSpec:
    return specs.get(name) or specs.get(ANY_OUTPUT) or TensorSpec()


def _merged(given: TensorSpec, known: TensorSpec) -> TensorSpec:
    shape = known.shape if given.shape is None else given.shape
    dtype = given.dtype or known.dtype or _DEFAULT
    if shape is None or None in shape:
        if dtype.kind != "T":
            raise ConfigError(_MISSING, key="mock.shape")
        shape = ()
    return TensorSpec(dtype=dtype, shape=shape)


def _digests(rows: Rows, key: bytes) -> list[bytes]:
    columns = list(rows.values()) if isinstance(rows, Mapping) else [rows]
    digests = []
    for i in range(count_rows(rows)):
        name = blake2b(digest_size=16, key=key)
        for column in columns:
            cell = column[i]
            # The bytes of numbers are hashed as they are; JSON of a large array would take most of the time.
            plain = isinstance(cell, np.ndarray | np.generic) and cell.dtype.kind in "biuf"
            name.update(cell.tobytes() if plain else orjson.dumps(cell, default=repr))
        digests.append(name.digest())
    return digests


def _values(spec: TensorSpec, names: list[bytes]) -> Array | list[Any]:
    assert spec.dtype is not None
    if spec.dtype.kind == "T":
        return [f"mock {name.hex()[:8]}" for name in names]
    shape = tuple(length or 0 for length in spec.shape or ())
    values = np.empty((len(names), *shape), spec.dtype)
    for row, name in enumerate(names):
        # A generator for each row: its values must not depend on the other rows of the chunk.
        random = np.random.default_rng(int.from_bytes(name)).random(shape)
        values[row] = (
            random < 0.5 if values.dtype.kind == "b" else random * (_INTEGERS if values.dtype.kind in "iu" else 1)
        )
    return values

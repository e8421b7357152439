"""The model of a rehearsal: values of the right dtype and shape that depend on nothing but a seed and the row."""

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
    "is missing: nothing tells what one row's answer looks like; give mock.shape, such as [10] "
    "([] for one value a row), or the codec's own option shape"
)


def outputs_of(codec: Codec, told: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """What the model has to give: by output name what the job tells of it, else what the codec knows.

    Raises `ConfigError` where neither tells a shape.
    """
    known = codec.spec
    named = [*(codec.options.get("outputs") or ()), *known, *told]
    names = [name for name in dict.fromkeys(named) if name != ANY_OUTPUT] or [""]
    outputs = {name: _merged(_of(told, name), _of(known, name)) for name in names}
    texts = [name for name, spec in outputs.items() if spec.dtype is not None and spec.dtype.kind == "T"]
    # A chat tells beside the text how it has ended, which is the server's to say.
    return {texts[0]: outputs[texts[0]]} if len(texts) == len(outputs) else outputs


class MockModel:
    """Takes rows, gives what `outputs_of` has told: numbers from 0 to 1, whole ones below 100, short texts.

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


def _merged(told: TensorSpec, known: TensorSpec) -> TensorSpec:
    shape = known.shape if told.shape is None else told.shape
    dtype = told.dtype or known.dtype or _DEFAULT
    if shape is None or None in shape:
        if dtype.kind != "T":
            raise ConfigError(_MISSING, key="mock.shape")
        shape = ()
    return TensorSpec(dtype=dtype, shape=shape)


def _digests(rows: Rows, key: bytes) -> list[bytes]:
    columns = list(rows.values()) if isinstance(rows, Mapping) else [rows]
    made = []
    for i in range(count_rows(rows)):
        name = blake2b(digest_size=16, key=key)
        for column in columns:
            cell = column[i]
            plain = isinstance(cell, np.ndarray | np.generic) and cell.dtype.kind in "biuf"
            name.update(cell.tobytes() if plain else orjson.dumps(cell, default=repr))
        made.append(name.digest())
    return made


def _values(spec: TensorSpec, names: list[bytes]) -> Array | list[Any]:
    assert spec.dtype is not None
    if spec.dtype.kind == "T":
        return [f"mock {name.hex()[:8]}" for name in names]
    shape = tuple(length or 0 for length in spec.shape or ())
    made = np.empty((len(names), *shape), spec.dtype)
    for row, name in enumerate(names):
        random = np.random.default_rng(int.from_bytes(name)).random(shape)
        made[row] = random < 0.5 if made.dtype.kind == "b" else random * (_INTEGERS if made.dtype.kind in "iu" else 1)
    return made

"""The options of codecs: their types, and checks, so that an error names a wrong one before anything is sent.

The options also show whether a model draws its answers at random, so that no cache keeps them unasked.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import orjson

from fanout.codecs._rows import DUMPS, holds_nonfinite
from fanout.errors import ConfigError
from fanout.options import did_you_mean
from fanout.types import TensorSpec

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # pydantic, which makes the schema of job files, takes this one alone
    from typing_extensions import TypedDict

ANY_OUTPUT = "*"
"""Key of the spec for every output without an entry of its own."""

DTypeOption: TypeAlias = str | Mapping[str, str] | None
ShapeOption: TypeAlias = Sequence[int | None] | Mapping[str, Sequence[int | None]] | None


class StatusRule(TypedDict, total=False):
    """A rule: all conditions that it has must hold."""

    status: int
    path: str
    equals: str | int | float | bool
    contains: str
    then: Literal["quota", "fail", "retry"] | int


class OutputOptions(TypedDict, total=False):
    """One output of an answer."""

    path: str
    type: str
    shape: Sequence[int | None]
    null: Literal["fail", "keep"]
    order: str


class PollOptions(TypedDict, total=False):
    """The keys of ``poll``."""

    url: str
    until: str
    every: float
    timeout: float
    result: str
    origins: Sequence[str]
    most: int


_TEMPERATURE = "temperature"
_ABOUT_ANSWERS = ("outputs", "schema", "dtype", "shape", "usage")
# A request with one of these fields goes to a language model, whose temperature is above 0 unless it is given.
_OF_CHATS = frozenset({
    "messages", "contents", "instructions",
    "max_tokens", "max_output_tokens", "max_completion_tokens", "maxOutputTokens", "num_predict",
})  # fmt: skip


def text(name: str, value: object) -> str:
    """Return ``value`` if it is a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} must be a text, not {value!r}", key=name)
    return value


def text_or_none(name: str, value: object) -> str | None:
    """Return ``value`` if it is a text that is not empty, or None."""
    return None if value is None else text(name, value)


def count_or_none(name: str, value: object) -> int | None:
    """Return ``value`` if it is a whole number, 1 or more, or None."""
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"{name} must be a whole number, 1 or more, not {value!r}", key=name)
    return value


def flag(name: str, value: object) -> bool:
    """Return ``value`` if it is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {value!r}", key=name)
    return value


def require_keys(name: str, table: Iterable[str], known: Collection[str], option: str = "") -> None:
    """Raise `ConfigError` for the first key of a ``table`` that is not ``known``; its key is ``option``, if given."""
    for key in table:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ConfigError(
                f"{name} has no key {key!r}{hint}; its keys are {', '.join(known)}", key=option or f"{name}.{key}"
            )


def fields(name: str, value: object, refused: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a copy of ``value`` if it is a table of constants that JSON can express; empty for None.

    ``refused`` are the fields that it cannot have, each with the reason.
    """
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} must be a table of constant fields, not {value!r}", key=name)
    try:
        orjson.dumps(value, option=DUMPS)
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"{name} cannot be written as JSON: {error}", key=name) from None
    if holds_nonfinite(value):
        raise ConfigError(f"{name} holds NaN or infinity, which JSON cannot express", key=name)
    for field, why in (refused or {}).items():
        if field in value:
            raise ConfigError(f"{name} cannot have the field {field!r}: {why}", key=name)
    return dict(value)


def names(name: str, value: object) -> tuple[str, ...]:
    """Return ``value`` if it is a list of different texts; empty for None."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise ConfigError(f"{name} must be a list of names, not {value!r}", key=name)
    if len(set(value)) < len(value):
        raise ConfigError(f"{name} has a name twice: {value!r}", key=name)
    return tuple(value)


def spec_from_options(dtype: DTypeOption, shape: ShapeOption) -> dict[str, TensorSpec]:
    """Return the options ``dtype`` and ``shape`` as output name -> spec. Raises `ConfigError`."""
    dtypes = dict(dtype) if isinstance(dtype, Mapping) else {} if dtype is None else {ANY_OUTPUT: dtype}
    shapes = dict(shape) if isinstance(shape, Mapping) else {} if shape is None else {ANY_OUTPUT: shape}
    any_dtype, any_shape = dtypes.get(ANY_OUTPUT), shapes.get(ANY_OUTPUT)
    return {
        name: TensorSpec(
            dtype=output_dtype(dtypes.get(name, any_dtype), "dtype"),
            shape=output_shape(shapes.get(name, any_shape), "shape"),
        )
        for name in dtypes.keys() | shapes.keys()
    }


def spec_for(specs: Mapping[str, TensorSpec], output: str) -> TensorSpec:
    """Return the spec of an output, or the one for every other output, as far as there is one."""
    return specs.get(output) or specs.get(ANY_OUTPUT) or TensorSpec()


def output_dtype(name: object, key: str) -> np.dtype[Any] | None:
    """Return the dtype of this name; None for None. Raises `ConfigError`."""
    if name is None:
        return None
    try:
        dtype = np.dtypes.StringDType() if name == "str" else np.dtype(cast("str", name))
    except (TypeError, ValueError, SyntaxError):  # numpy parses the text as a small language
        raise ConfigError(f'{key} {name!r} is no numpy dtype; try "float32" or "int64"', key=key) from None
    if dtype.kind not in "biufT":
        raise ConfigError(f"{key} {name!r} cannot come over the wire; use a number, bool or str dtype", key=key)
    return dtype.newbyteorder("=") if dtype.kind != "T" else dtype


def output_shape(shape: object, key: str) -> tuple[int | None, ...] | None:
    """Return the shape of one row; None for None. Raises `ConfigError`."""
    if shape is None:
        return None
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise ConfigError(f"{key} must be a list of lengths, such as [10], not {shape!r}", key=key)
    # TOML has no null, so -1 stands for an unknown length there, as it does in the protocols.
    lengths = tuple(None if length in (None, -1) else length for length in shape)
    if not all(length is None or (isinstance(length, int) and length >= 0) for length in lengths):
        raise ConfigError(f"{key} {list(shape)!r} must hold whole numbers, 0 or more (-1: unknown)", key=key)
    return lengths


def sampled_by(options: Mapping[str, Any]) -> str:
    """Return the reason why answers to requests with these constants are drawn at random; empty if they are not."""
    # Names of outputs are the user's own.
    fields = _fields({name: value for name, value in options.items() if name not in _ABOUT_ANSWERS})
    # A table is a property of a schema that a request carries.
    temperatures = [value for name, value in fields if name == _TEMPERATURE and not isinstance(value, Mapping)]
    if not temperatures:
        return "a chat without a temperature has one above 0" if _OF_CHATS & dict(fields).keys() else ""
    # A number of NumPy compares as Python's do; a placeholder is a text, whatever its rows hold.
    above = next((value for value in temperatures if isinstance(value, str) or value != 0), None)
    return "" if above is None else f"temperature is {above!r}"


def _fields(value: Any) -> list[tuple[str, Any]]:
    """Return the fields of all objects in ``value``."""
    if isinstance(value, Mapping):
        return [pair for name, item in value.items() for pair in ((str(name), item), *_fields(item))]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [pair for item in value for pair in _fields(item)]
    return []

"""The identity of a user's function among the options of a codec: an edited function is another option.

The name is not enough, since two files may have a function of one name, and every lambda is called ``<lambda>``. A
cache would then serve answers that the function at hand refuses.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

# Many a repr ends with the object's address, which differs in every process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# The parts of pydantic's core schema that hold a number of the process, or the class itself.
_OF_PROCESS = frozenset({"cls", "metadata", "ref", "schema_ref"})


def option_identity(value: object) -> str:
    """Return text that is the same in every process, for an option that JSON cannot hold.

    A function counts with its source, its defaults, and what it refers to: constants, and functions of its module. The
    code of other modules does not count, for an update of a library should not cost the answers of a cache. A pydantic
    model counts with its validators.
    """
    return "\n".join(_texts(value, set()))


def _texts(value: object, seen: set[int]) -> Iterator[str]:
    # A function may refer to itself.
    if id(value) in seen:
        return
    parts = _parts(value)
    if parts is None:
        yield _name(value)
        return
    if isinstance(value, FunctionType | type):
        seen.add(id(value))
    yield f"{type(value).__name__} of {len(parts)}"
    for part in parts:
        yield from _texts(part, seen)


def _parts(value: Any) -> list[Any] | None:
    """The values that decide together what ``value`` is; None for one that its name or repr identifies."""
    if isinstance(value, FunctionType):
        return [value.__qualname__, *_code(value), *_used(value)]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, type) and isinstance(schema := getattr(value, "__pydantic_core_schema__", None), Mapping):
        return [value.__qualname__, _lasting(schema)]
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, set | frozenset):  # whose order differs in every process
        return sorted(map(_name, value))
    return list(value) if isinstance(value, list | tuple) else None


def _lasting(schema: Any) -> Any:
    """A core schema of pydantic without the parts that are of this process, and without pydantic's own functions."""
    if isinstance(schema, Mapping):
        return {key: _lasting(value) for key, value in schema.items() if key not in _OF_PROCESS}
    if isinstance(schema, list | tuple):
        return [_lasting(value) for value in schema]
    return _name(schema) if str(getattr(schema, "__module__", "")).startswith("pydantic.") else schema


def _name(value: object) -> str:
    return str(getattr(value, "__qualname__", None) or _ADDRESS.sub("", repr(value)))


def _code(function: FunctionType) -> list[Any]:
    # The source of a lambda is that of its line, which may have several. Code that was made of a text has no file, and
    # since Python 3.13 the text after ``python -c`` counts as its source.
    if function.__name__ != "<lambda>" and function.__code__.co_filename != "<string>":
        with suppress(OSError, TypeError):  # typed into an interpreter
            return [inspect.getsource(function)]
    return [
        part
        for code in _codes(function.__code__)
        for part in (code.co_code.hex(), [one for one in code.co_consts if not isinstance(one, CodeType)])
    ]


def _used(function: FunctionType) -> Iterator[Any]:
    """The names to which a function refers, and their values: functions of other modules by their name."""
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    used = [(name, function.__globals__[name]) for name in sorted(names & function.__globals__.keys())]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # nothing is assigned to it
            used.append((name, cell.cell_contents))
    for name, value in used:
        is_foreign = callable(value) and getattr(value, "__module__", None) != function.__module__
        yield from (name, _name(value) if is_foreign else value)
    yield from (function.__defaults__, function.__kwdefaults__)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)

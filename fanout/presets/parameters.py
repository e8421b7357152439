"""Parameters of a preset: their declarations, and their values in its strings.

``"{{parameters.model}}"`` stands for the value of the parameter, with its type; inside a longer text for its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from fanout._lazy import pattern
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_NAME = pattern(r"[a-z][a-z0-9_]*")
REFERENCE = pattern(r"\{\{ *parameters\.([^}]*?) *\}\}")
RESERVED = frozenset({"name", "preset"})
"""Keys of ``[codec]`` that no parameter may have."""

# Type of a parameter in JSON Schema -> its types in Python, and its name in messages.
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "a string"),
    "integer": ((int,), "a whole number"),
    "number": ((int, float), "a number"),
    "boolean": ((bool,), "true or false"),
    "array": ((list, tuple), "a list"),
    "object": ((dict,), "a table"),
}
_NOUNS = {str: "a string", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}
_KEYS = frozenset({"type", "default", "choices", "meaning", "optional"})

Values: TypeAlias = "Mapping[str, Any]"
"""Parameter name to value. An optional parameter that is not given has no value."""

_LEFT_OUT = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter: a key of ``[codec]`` in a job file. It is required unless it is optional or has a default.

    Attributes:
        type: its type in JSON Schema: ``"string"``, ``"integer"``, ``"number"``, ``"boolean"``, ``"array"`` or
            ``"object"``.
        default: its value if none is given; None if it has no default.
        choices: all values that it may have; empty if any value of its type is valid.
    """

    name: str
    type: str
    meaning: str
    default: Any = None
    choices: tuple[Any, ...] = ()
    optional: bool = False

    @property
    def required(self) -> bool:
        """True if a job has to give a value."""
        return not self.optional and self.default is None

    def problem(self, value: Any) -> str:
        """Return the reason why the parameter cannot have this value; empty if it can."""
        kinds, noun = _TYPES[self.type]
        # True is an int in Python.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return f"must be {noun}, not {_NOUNS.get(type(value), 'a table')}"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(map(_shown, self.choices))}, not {_shown(value)}"
        return ""


def declared(name: str, table: object) -> Parameter:
    """Return the parameter of the table ``[parameters.NAME]``. The message of a `ConfigError` begins with the key."""
    at = f"parameters.{name}"
    if not isinstance(table, dict):
        raise ConfigError(f'{at}: must be a table, such as {{ type = "string", meaning = "..." }}')
    # The name becomes a keyword of `fanout.preset` and a bare key of TOML, so that it has to be valid as both.
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise ConfigError(
            f"{at}: write another name, of small letters, digits and _; not {', '.join(sorted(RESERVED))}"
        )
    if unknown := table.keys() - _KEYS:
        raise ConfigError(f"{at}.{min(unknown)}: unknown key; known here are {', '.join(sorted(_KEYS))}")
    if table.get("type") not in _TYPES:
        raise ConfigError(f"{at}.type: must be one of {', '.join(map(_shown, _TYPES))}, not {table.get('type')!r}")
    if not isinstance(table.get("meaning"), str) or not table["meaning"]:
        raise ConfigError(f"{at}.meaning: is missing: one sentence for the user")
    if not isinstance(table.get("choices", []), list) or type(table.get("optional", False)) is not bool:
        raise ConfigError(f"{at}: choices must be a list, and optional true or false")
    parameter = Parameter(name=name, **{**table, "choices": tuple(table.get("choices", ()))})
    if parameter.optional and parameter.default is not None:
        raise ConfigError(f"{at}: has a default, so that it cannot be optional: leave one out")
    if parameter.default is not None and (problem := parameter.problem(parameter.default)):
        raise ConfigError(f"{at}.default: {problem}")
    return parameter


def references(value: Any) -> Iterator[tuple[str, bool]]:
    """Yield the name of each parameter in the strings of ``value``, and whether it is the whole string."""
    for text in strings(value):
        for match in REFERENCE.finditer(text):
            yield match[1], match[0] == text


def strings(value: Any) -> Iterator[str]:
    """Yield every string in ``value``: keys, values and items."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)


def filled(value: Any, values: Values) -> Any:
    """Return ``value`` with the values of the parameters in its strings.

    A key or item that is a parameter without a value is left out, and so is a table of which nothing remains.
    """
    result = _filled(value, values)
    return {} if result is _LEFT_OUT else result


def filled_text(text: str, values: Values, quote: Callable[[str], str] = str) -> str:
    """Return ``text`` with the values of the parameters in it, each as text and quoted."""
    return REFERENCE.sub(lambda match: quote(_text(values[match[1]])), text)


def _filled(value: Any, values: Values) -> Any:
    if isinstance(value, str):
        # The values are not searched for references, so one parameter cannot stand in for another.
        whole = REFERENCE.fullmatch(value)
        return values.get(whole[1], _LEFT_OUT) if whole else filled_text(value, values)
    if isinstance(value, dict):
        table = {
            filled_text(key, values): inner
            for key, old in value.items()
            if (inner := _filled(old, values)) is not _LEFT_OUT
        }
        return table if table or not value else _LEFT_OUT
    if isinstance(value, list):
        return [inner for old in value if (inner := _filled(old, values)) is not _LEFT_OUT]
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _shown(value: Any) -> str:
    return _text(value) if not isinstance(value, str) else f'"{value}"'

"""Environment variables in texts: ``${NAME}`` and ``${NAME:-default}``; a plain ``${`` is written ``$${``.

Settings with a credential may hold such a reference in its place. The client resolves it, so that pickled settings
carry the name of the variable to other machines, and no secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fanout._escape import is_unicode
from fanout._lazy import pattern
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

REFERENCE = pattern(r"\$\$\{|\$\{([^}]*)(\}?)")
_INSIDE = pattern(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)

T = TypeVar("T")


class Value(NamedTuple):
    """The text in place of a reference, and the reason why there is none."""

    text: str
    problem: str = ""
    is_unset: bool = False


def value_of(match: re.Match[str], environment: Mapping[str, str]) -> Value:
    """Return the value of a match of `REFERENCE`."""
    # The escape for a text that contains the marker itself, such as a template.
    if match[0] == "$${":
        return Value("${")
    inside = _INSIDE.fullmatch(match[1])
    if inside is None or not match[2]:
        written = 'an environment variable is written ${NAME} or ${NAME:-default}, and a plain "${" as "$${"'
        return Value(match[0], written)
    name, default = inside.groups()
    value = environment.get(name)
    # As in a shell, ${NAME:-default} also replaces an empty value.
    if default is not None and not value:
        return Value(str(default))
    if value is None or not is_unicode(value):  # os.environ represents other bytes by lone surrogates
        state = "is not set" if value is None else "is not valid UTF-8"
        return Value(match[0], f"the environment variable {name} {state}", is_unset=True)
    return Value(value)


def has_reference(text: str) -> bool:
    """True if a part of ``text`` comes from the environment."""
    return any(match[0] != "$${" for match in REFERENCE.finditer(text))


def resolved(settings: T, owner: str) -> T:
    """Return settings (a dataclass or a mapping) with the references in all of their texts resolved.

    Raises `ConfigError` with the name of ``owner``: it lists all variables that are not set in this process.
    """
    problems: dict[str, None] = {}

    def resolve(match: re.Match[str]) -> str:
        value = value_of(match, os.environ)
        if value.problem:
            problems[value.problem] = None
        return value.text

    filled: T = _with_texts(settings, lambda text: REFERENCE.sub(resolve, text))
    if problems:
        raise ConfigError(f"{owner}: {'; '.join(problems)}", key=owner)
    return filled


def literal(settings: T) -> T:
    """Return settings of which `resolved` makes ``settings``: no text in them is taken for a reference."""
    escaped: T = _with_texts(settings, lambda text: text.replace("${", "$${"))
    return escaped


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """``value`` with ``change`` applied to its texts, in dataclasses, mappings and tuples; the same object if equal."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_with_texts(one, change) for one in value)
    # Before the look for a mapping, which takes milliseconds for the first object of each other class.
    if not is_dataclass(value) or isinstance(value, type):
        if value is None or isinstance(value, int | float) or not isinstance(value, Mapping):
            return value
        changed = {name: _with_texts(one, change) for name, one in value.items()}
        return value if changed == value else changed
    # Settings are checked as they are made, so only those that change are made again.
    before = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
    after = {name: _with_texts(one, change) for name, one in before.items()}
    return value if after == before else replace(value, **after)

"""Environment variables in a job file: ``${NAME}`` and ``${NAME:-default}`` in its strings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from fanout._variables import REFERENCE, value_of

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping

Location: TypeAlias = tuple[str | int, ...]
"""Location of a value: keys of tables and positions in lists."""

SECRET_TABLES = frozenset({"endpoint", "auth", "codec", "storage"})
"""Tables in which the value of a variable, or its default, is a secret."""

_SECRET_KEYS = frozenset({("limits", "shared")})


def is_secret(at: Location) -> bool:
    """True if the value of a variable at this location is a secret."""
    return at[:1] != () and (at[0] in SECRET_TABLES or at in _SECRET_KEYS)


@dataclass(slots=True)
class Substitution:
    """Substitutes variables from ``environment``, and remembers the secrets among their values."""

    environment: Mapping[str, str]
    problems: dict[Location, str] = field(default_factory=dict)
    unset: set[Location] = field(default_factory=set)
    """Locations of variables that are not set; also in `problems`."""

    filled: dict[Location, list[str]] = field(default_factory=dict, repr=False)
    """Location -> secrets that were substituted there."""

    prefixes: dict[str, str] = field(default_factory=dict, repr=False)
    """Beginning of a URL that ends with a substituted value -> its redacted form."""

    def apply(self, value: Any, at: Location = ()) -> Any:
        """Return ``value`` with variables substituted in every string. Faulty references are left, as `problems`."""
        if isinstance(value, dict):
            return {key: self.apply(inner, (*at, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.apply(inner, (*at, position)) for position, inner in enumerate(value)]
        if isinstance(value, str):
            return self._substitute(value, at)
        return value

    @property
    def secrets(self) -> list[str]:
        """All values that were substituted under endpoint, auth and codec, and in limits.shared."""
        return [value for values in self.filled.values() for value in values]

    def redact(self, text: str, at: Location) -> str:
        """Return ``text`` about the value ``at`` a location without the secrets there, however short they are."""
        # A problem of a table concerns all values in it, and one of a value the table around it.
        for place, values in self.filled.items():
            shared = min(len(place), len(at))
            if place[:shared] == at[:shared]:
                # Longest first, since a value may contain another one.
                for value in sorted(values, key=len, reverse=True):
                    text = text.replace(repr(value)[1:-1], "***").replace(value, "***")
        return text

    def _substitute(self, text: str, at: Location) -> str:
        substituted, redacted, end = "", "", 0
        for match in REFERENCE.finditer(text):
            plain, value = text[end : match.start()], self._value_of(match, at)
            substituted, end = substituted + plain + value, match.end()
            # A variable in a path or a name of a column is no secret, and messages must show it.
            secret = value and match[0] != "$${" and at not in self.problems and is_secret(at)
            redacted += plain + ("***" if secret else value)
            if secret:
                self.filled.setdefault(at, []).append(value)
                if "://" in substituted:
                    self.prefixes[substituted] = redacted
        return substituted + text[end:]

    def _value_of(self, match: re.Match[str], at: Location) -> str:
        value = value_of(match, self.environment)
        if value.problem:
            self.problems[at] = value.problem
            if value.is_unset:
                self.unset.add(at)
        return value.text

"""Environment variables in a job file: ``${NAME}`` and ``${NAME:-default}`` in its strings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Location: TypeAlias = tuple[str | int, ...]
"""The way to a value: keys of tables and positions in lists."""

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_INSIDE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


SECRET_TABLES = frozenset({"endpoint", "codec"})
"""Tables in which a value from a variable, or its default, is a secret."""


@dataclass(slots=True)
class Substitution:
    """Fills in variables from ``environment``, and remembers which values under endpoint and codec are secrets."""

    environment: Mapping[str, str]
    problems: dict[Location, str] = field(default_factory=dict)
    unset: set[Location] = field(default_factory=set)
    """Places of variables that are not set; `problems` says so too."""

    filled: dict[Location, list[str]] = field(default_factory=dict, repr=False)
    """Place -> secrets that were filled in there."""

    prefixes: dict[str, str] = field(default_factory=dict, repr=False)
    """Each beginning of a URL that ends with a filled-in value -> how it is shown."""

    def apply(self, value: Any, at: Location = ()) -> Any:
        """``value`` with every string in it filled in. What cannot be goes to `problems` and stays as it is."""
        if isinstance(value, dict):
            return {key: self.apply(inner, (*at, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.apply(inner, (*at, position)) for position, inner in enumerate(value)]
        if isinstance(value, str):
            return self._with_variables(value, at)
        return value

    @property
    def secrets(self) -> list[str]:
        """All values that were filled in under endpoint and codec."""
        return [value for values in self.filled.values() for value in values]

    def masked(self, text: str, at: Location) -> str:
        """``text`` on the value ``at`` a place, without the secrets that were filled in there, however short."""
        for place, values in self.filled.items():
            shared = min(len(place), len(at))
            if place[:shared] == at[:shared]:
                for value in sorted(values, key=len, reverse=True):
                    text = text.replace(repr(value)[1:-1], "***").replace(value, "***")
        return text

    def _with_variables(self, text: str, at: Location) -> str:
        made, shown, end = "", "", 0
        for match in _REFERENCE.finditer(text):
            plain, value = text[end : match.start()], self._filled_in(match, at)
            made, end = made + plain + value, match.end()
            secret = value and match[0] != "$${" and at not in self.problems and at[:1] and at[0] in SECRET_TABLES
            shown += plain + ("***" if secret else value)
            if secret:
                self.filled.setdefault(at, []).append(value)
                if "://" in made:
                    self.prefixes[made] = shown
        return made + text[end:]

    def _filled_in(self, match: re.Match[str], at: Location) -> str:
        if match[0] == "$${":
            return "${"
        inside = _INSIDE.fullmatch(match[1])
        if inside is None or not match[2]:
            self.problems[at] = (
                'an environment variable is written ${NAME} or ${NAME:-default}, and a plain "${" as "$${"'
            )
            return match[0]
        name, default = inside.groups()
        value = self.environment.get(name)
        if default is not None and not value:
            return str(default)
        if value is None or not _is_text(value):
            state = "is not set" if value is None else "is not valid UTF-8"
            self.problems[at] = f"the environment variable {name} {state}"
            self.unset.add(at)
            return match[0]
        return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # os.environ holds other bytes as lone surrogates
        return False
    return True

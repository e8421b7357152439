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


@dataclass(slots=True)
class Substitution:
    """Fills in variables from ``environment``, and remembers what it filled in so that nobody shows it."""

    environment: Mapping[str, str]
    problems: dict[Location, str] = field(default_factory=dict)
    filled: dict[Location, list[str]] = field(default_factory=dict, repr=False)

    def apply(self, value: Any, at: Location = ()) -> Any:
        """``value`` with every string in it filled in. What cannot be goes to `problems` and stays as it is."""
        if isinstance(value, dict):
            return {key: self.apply(inner, (*at, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.apply(inner, (*at, position)) for position, inner in enumerate(value)]
        if isinstance(value, str):
            return _REFERENCE.sub(lambda match: self._filled_in(match, at), value)
        return value

    def masked(self, text: str, at: Location) -> str:
        """``text`` on the value ``at`` a place, without what came from the environment there."""
        for place, values in self.filled.items():
            shared = min(len(place), len(at))
            if place[:shared] == at[:shared]:
                for value in sorted(values, key=len, reverse=True):
                    text = text.replace(repr(value)[1:-1], "***").replace(value, "***")
        return text

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
            return match[0]
        if value:
            self.filled.setdefault(at, []).append(value)
        return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # os.environ holds other bytes as lone surrogates
        return False
    return True

"""The tables of a job file before they are checked: variables of the environment in its strings, and its preset."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from fanout._url import with_path
from fanout._variables import REFERENCE, value_of
from fanout.errors import ConfigError
from fanout.presets import DEFAULT_CODEC, TABLES, load_preset, merged, require_options, with_headers

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping
    from pathlib import Path

Location: TypeAlias = tuple[str | int, ...]
"""Location of a value: keys of tables and positions in lists."""

SECRET_TABLES = frozenset({"endpoint", "auth", "codec", "storage"})
"""Tables in which the value of a variable, or its default, is a secret."""

# Each describes the body of a request of the default codec.
_BODIES = {"request", "raw", "form"}
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


def with_preset(tables: Mapping[str, Any], file: Path, problems: dict[Location, str]) -> dict[str, Any]:
    """Return the tables of a job file with the defaults of its preset. Adds its faults to ``problems``.

    With an invalid preset the table ``codec`` has its default only. A body without a name is one of the codec json.
    """
    codec = tables.get("codec")
    if not isinstance(codec, dict):
        return dict(tables)
    if "preset" not in codec:
        return {**tables, "codec": {"name": DEFAULT_CODEC, **codec}} if _BODIES & codec.keys() else dict(tables)
    name, invalid = codec["preset"], {**tables, "codec": {"name": DEFAULT_CODEC}}
    try:
        if not isinstance(name, str) or not name:
            raise ConfigError("must be the name of a preset, or the path of a file", key="preset")
        preset = load_preset(name, file.parent)
        options = {key: value for key, value in codec.items() if key != "preset"}
        # All parameters are checked before one is reported, as for the other tables.
        wrong = dict(preset.problems(options))
        for key, text in wrong.items():
            problems.setdefault(("codec", key), f"{text} (preset {name!r})" if key not in options else text)
        if wrong:
            return invalid
        path, defaults = preset.fill(options)
        require_options(preset, defaults["codec"], options)
    except ConfigError as error:
        problems.setdefault(("codec", error.key), str(error))
        return invalid
    defaults["codec"]["preset"] = name
    return _merged(tables, path, defaults)


def _merged(tables: Mapping[str, Any], path: str, defaults: dict[str, dict[str, Any]]) -> dict[str, Any]:
    result = {**tables, "codec": defaults.pop("codec")}
    endpoint = tables.get("endpoint")
    if isinstance(endpoint, dict):
        result["endpoint"] = _endpoint(endpoint, path, defaults.get("headers", {}))
    for table in TABLES:
        own = tables.get(table, {})
        if table in defaults and table != "headers" and isinstance(own, dict):
            # Credentials may also be header fields, be of another type, or not be needed behind a gateway.
            if table == "auth" and (not own or own.get("type", defaults[table]["type"]) != defaults[table]["type"]):
                continue
            result[table] = merged(defaults[table], own)
    return result


def _endpoint(endpoint: Mapping[str, Any], path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    result = dict(endpoint)
    own = endpoint.get("headers", {})
    if headers and isinstance(own, dict):
        result["headers"] = with_headers(headers, own)
    if "url" in endpoint:
        result["url"] = _whole(endpoint["url"], path)
    if isinstance(endpoint.get("urls"), list):
        result["urls"] = [_whole(url, path) for url in endpoint["urls"]]
    return result


def _whole(url: Any, path: str) -> Any:
    """Return ``url`` with the path; as it is if it is no URL, which the check of the endpoint reports."""
    if isinstance(url, str) and "://" in url:
        with suppress(ValueError):
            return with_path(url, path)
    return url

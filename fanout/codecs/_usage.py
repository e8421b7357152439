"""The units that an API counts for an answer, by the paths that the user names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fanout.codecs._paths import finder
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError

_LARGEST_COUNT = 2**53


class UsagePaths:
    """Name of a count -> JMESPath in the answer. Raises `ConfigError` for a path that is none."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        if not isinstance(paths, Mapping):
            raise ConfigError(f"usage must be a table of name = path, not {paths!r}", key="usage")
        self.paths = dict(paths)
        self._finders = {name: finder(path, f"usage.{name}") for name, path in paths.items()}

    def of(self, document: Any) -> dict[str, int]:
        """The counts in ``document``; those that it lacks are left out."""
        counts = {}
        for name, find in self._finders.items():
            try:
                value = find(document)
            except Unfit:  # an answer without a count is a valid one
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if type(value) is int and 0 <= value <= _LARGEST_COUNT:
                counts[name] = value
        return counts

"""Classes by name: the packaged ones, and those that other packages register as entry points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fanout.errors import ConfigError
from fanout.options import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one kind by name.

    Args:
        kind: their common base class.
        noun: what messages call one of them.
        packaged: name -> class, for those of this package.
        group: the entry point group in which other packages register theirs.
        key: the option that holds the name, for errors.
    """

    def __init__(self, kind: type[Any], noun: str, packaged: Mapping[str, type[T]], group: str, key: str) -> None:
        self._kind, self._noun, self._packaged, self._group, self._key = kind, noun, packaged, group, key

    def names(self) -> list[str]:
        """Return all names, those of this package first."""
        return [*self._packaged, *sorted(self._registered().keys() - self._packaged.keys())]

    def find(self, name: str) -> type[T]:
        """Return the class of this name. Raises `ConfigError` if there is none, or if it cannot be imported."""
        # The packaged classes first: entry points are found by a search through all installed packages.
        if name in self._packaged:
            return self._packaged[name]
        registered = self._registered()
        if name not in registered:
            known = self.names()
            hint = did_you_mean(name, known)
            problem = f"there is no {self._noun} {name!r}{hint}; there are {', '.join(known)}"
            raise ConfigError(problem, key=self._key)
        return self._loaded(registered[name])

    def _registered(self) -> dict[str, EntryPoint]:
        from importlib.metadata import entry_points

        return {entry.name: entry for entry in entry_points(group=self._group)}

    def _loaded(self, entry: EntryPoint) -> type[T]:
        origin = f"{self._noun} {entry.name!r} ({entry.value})"
        try:
            kind = entry.load()
        except Exception as error:  # an import runs any code of the module
            raise ConfigError(f"{origin} cannot be imported: {error}", key=self._key) from error
        if not (isinstance(kind, type) and issubclass(kind, self._kind)):
            raise ConfigError(f"{origin} is no subclass of fanout.{self._kind.__name__}", key=self._key)
        return kind

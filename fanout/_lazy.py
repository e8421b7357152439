"""Names of a package (PEP 562) and patterns, made on first use, because most processes use few of them."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


def lazy(package: str, homes: Mapping[str, Iterable[str]], places: Iterable[str] = ()) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package: module -> the names that are imported from it on first use.

    ``places`` are further ones, as ``module:name``.
    """
    home_of = {name: home for home, names in homes.items() for name in names}
    home_of |= {name: home for home, _, name in (place.partition(":") for place in places)}

    def __getattr__(name: str) -> Any:  # noqa: N807 - the name under which Python calls it
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__


if TYPE_CHECKING:
    pattern = re.compile
else:

    class pattern:  # noqa: N801 - it stands for `re.compile`
        """A regular expression as `re.compile` makes it, compiled once it is used: that takes up to a millisecond."""

        def __init__(self, text: str | bytes, flags: int = 0) -> None:
            self._text = text
            self._flags = flags

        def __getattr__(self, name: str) -> Any:
            # Kept in the instance, where Python finds it without this method.
            value = self.__dict__[name] = getattr(re.compile(self._text, self._flags), name)
            return value

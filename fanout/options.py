"""Names of options, and of the classes that options choose: a misspelt one is an error with the nearest existing name.

`checks_options` is the one mechanism for functions, methods, constructors and settings. Without it, Python raises a
bare TypeError that names neither the owner nor the alternatives.
"""

from __future__ import annotations

import sys
from functools import wraps
from importlib import import_module
from inspect import CO_VARKEYWORDS, Parameter, iscoroutinefunction, signature
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fanout.errors import ConfigError, UnknownOptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from importlib.metadata import EntryPoint

T = TypeVar("T", bound="Callable[..., Any]")
K = TypeVar("K")


def checks_options(function: T, shown: str = "") -> T:
    """Decorate a function, method or class so that an unknown keyword argument raises `UnknownOptionError`.

    A class is decorated in place: its ``__init__``, which it may have inherited, is replaced. Errors name the function
    as ``shown``; if not given, by its own name, or that of its class.
    """
    if isinstance(function, type):
        vars_of_class: Any = function
        vars_of_class.__init__ = checks_options(vars_of_class.__init__, function.__name__)
        return function
    known = option_names(function)
    assert known is not None, "a function that accepts every keyword has no unknown options"
    *_, owner, name = f".{function.__qualname__}".split(".")
    shown = shown or (owner if name == "__init__" else name)

    names = frozenset(known)

    # No coroutine function, not even around one: a second coroutine would cost `predict` a fifth of its time.
    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        if not names.issuperset(options):
            require_known(shown, options, known)
        return function(*args, **options)

    if iscoroutinefunction(function):
        _mark_as_coroutine_function(checked)
    return checked  # type: ignore[return-value]


def require_known(owner: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raise `UnknownOptionError` for the first of the ``given`` names that is not ``known``."""
    for name in given:
        if name not in known:
            options = f"its options are {', '.join(known)}" if known else "it takes none"
            raise UnknownOptionError(f"{owner} has no option {name!r}{did_you_mean(name, known)}; {options}", key=name)


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that is most like ``name``; None if none is like it."""
    # Imported on the error path only: `import fanout` has to stay cheap.
    from difflib import get_close_matches

    return next(iter(get_close_matches(str(name), list(known), 1)), None)


def did_you_mean(name: object, known: Iterable[str], form: str = " (did you mean {!r}?)", otherwise: str = "") -> str:
    """Return ``form`` with the known name that is most like ``name``; ``otherwise`` if none is like it."""
    near = nearest(name, known)
    return otherwise if near is None else form.format(near)


def option_names(function: Callable[..., Any]) -> list[str] | None:
    """Return the names that can be passed as keywords; None if the function accepts every name."""
    if type(function) is FunctionType and not vars(function):
        # As below, at a tenth of the cost: the package decorates some fifty functions as it is imported.
        code = function.__code__
        if code.co_flags & CO_VARKEYWORDS:
            return None
        names = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
        return [name for name in names if name != "self"]
    parameters = [
        parameter
        for parameter in signature(function).parameters.values()
        if parameter.name != "self" and parameter.kind is not Parameter.VAR_POSITIONAL
    ]
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not Parameter.POSITIONAL_ONLY]


def required_options(function: Callable[..., Any]) -> list[str]:
    """Return the names of the keywords without a default."""
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    parameters = signature(function).parameters.values()
    return [one.name for one in parameters if one.default is Parameter.empty and one.kind in named]


def _mark_as_coroutine_function(function: Any) -> None:
    """Mark a plain function that returns a coroutine, so that frameworks and ``unittest.mock`` await its result."""
    if sys.version_info >= (3, 12):
        from inspect import markcoroutinefunction

        markcoroutinefunction(function)
    else:
        # The marker of Python 3.11. A module with coroutine functions has imported asyncio already.
        import asyncio.coroutines

        function._is_coroutine = vars(asyncio.coroutines)["_is_coroutine"]  # noqa: SLF001


class Registry(Generic[K]):
    """The classes of one kind by name.

    Args:
        kind: their common base class.
        noun: what messages call one of them.
        packaged: name -> ``module:class``, which is imported on first use, for those of this package.
        group: the entry point group in which other packages register theirs.
        key: the option that holds the name, for errors.
    """

    def __init__(self, kind: type[Any], noun: str, packaged: Mapping[str, str], group: str, key: str) -> None:
        self._kind, self._noun, self._packaged, self._group, self._key = kind, noun, packaged, group, key

    def names(self) -> list[str]:
        """Return all names, those of this package first."""
        return [*self._packaged, *sorted(self._registered().keys() - self._packaged.keys())]

    def find(self, name: str) -> type[K]:
        """Return the class of this name. Raises `ConfigError` if there is none, or if it cannot be imported."""
        # The packaged classes first: entry points are found by a search through all installed packages.
        if (packaged := self._packaged.get(name)) is not None:
            module, _, attribute = packaged.partition(":")
            kind: type[K] = getattr(import_module(module), attribute)
            return kind
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

    def _loaded(self, entry: EntryPoint) -> type[K]:
        origin = f"{self._noun} {entry.name!r} ({entry.value})"
        try:
            kind = entry.load()
        except Exception as error:  # an import runs any code of the module
            raise ConfigError(f"{origin} cannot be imported: {error}", key=self._key) from error
        if not (isinstance(kind, type) and issubclass(kind, self._kind)):
            raise ConfigError(f"{origin} is no subclass of fanout.{self._kind.__name__}", key=self._key)
        return kind

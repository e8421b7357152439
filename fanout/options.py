"""Names of options: a misspelt one is named, with the nearest that there is."""

from __future__ import annotations

from functools import wraps
from inspect import Parameter, iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from fanout.errors import UnknownOptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=type)


def require_known(owner: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raise `UnknownOptionError` for the first of the ``given`` names that is not ``known``."""
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            what = f"{owner} has no option {name!r}{hint}; its options are {', '.join(known)}"
            raise UnknownOptionError(what, key=name)


def options_of(function: Callable[..., Any]) -> list[str] | None:
    """The names of what can be passed by keyword; None where any name can."""
    parameters = [
        parameter
        for parameter in signature(function).parameters.values()
        if parameter.name != "self" and parameter.kind is not Parameter.VAR_POSITIONAL
    ]
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not Parameter.POSITIONAL_ONLY]


def naming_options(owner: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function raise `UnknownOptionError` for an argument that it does not have."""

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        known = options_of(function)
        assert known is not None

        if iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: P.args, **options: P.kwargs) -> Any:
                require_known(owner, options, known)
                return await function(*args, **options)

            return cast("Callable[P, T]", awaited)

        @wraps(function)
        def checked(*args: P.args, **options: P.kwargs) -> T:
            require_known(owner, options, known)
            return function(*args, **options)

        return checked

    return decorated


def naming_fields(settings: C) -> C:
    """The same for a dataclass."""
    init: Any = vars(settings)["__init__"]
    settings.__init__ = naming_options(settings.__name__)(init)  # type: ignore[misc]
    return settings

"""The models that can be served: ``digits``, ``echo``, or the user's own ``package.module:function``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanout._escape import print_exception
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

PACKAGED = ("digits", "echo")
_KINDS = 'names are "digits", "echo" or "package.module:function"'


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One input or output as the Open Inference Protocol describes it; -1 stands for any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A function and what is known about it.

    ``function`` takes the rows of one request: a numpy array (first axis: the rows), a list of texts or other JSON
    values where they are no array, or a dict of arrays when several inputs were sent. It returns an array, a list of
    texts, or a dict of those, with one entry a row.
    """

    name: str
    function: Callable[[Any], Any]
    inputs: tuple[TensorInfo, ...] = ()
    """Empty where the function does not tell: then any input is passed on."""

    outputs: tuple[TensorInfo, ...] = ()
    max_batch_size: int | None = None
    """Most rows in one request; larger ones are error with 400, as Triton does. None: no bound."""

    embed: Callable[[list[str]], Any] | None = None
    """Texts -> array of shape (n, width), for the embeddings API; None where texts are not what the model takes.

    Where it is not None, the chat API calls ``function`` with texts, for texts.
    """


def load_model(name: str) -> Model:
    """The model of that name, ready to be called.

    ``package.module:function`` is imported with the current directory on ``sys.path``; if the function has an
    attribute ``max_batch_size``, larger requests are error as Triton does.

    Raises:
        ConfigError: no such model, module or function, not callable, or the module cannot be imported.
    """
    if name == "digits":
        return _digits()
    if name == "echo":
        from fanout.serving import echo

        return Model(name=name, function=echo.unchanged, embed=echo.embed)
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ConfigError(f"there is no model {name!r}{_nearest(name, PACKAGED)}; {_KINDS}", key="url")
    found = _function(_module(module), function)
    return Model(name=name, function=found, embed=found, max_batch_size=getattr(found, "max_batch_size", None))


def _digits() -> Model:
    from fanout.serving import digits

    return Model(
        name="digits",
        function=digits.classify,
        inputs=(TensorInfo(name="images", datatype="FP32", shape=(-1, digits.PIXELS)),),
        outputs=(TensorInfo(name="probabilities", datatype="FP32", shape=(-1, digits.CLASSES)),),
    )


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        # A module that is there, but imports one that is not, would be misreported as missing itself.
        if f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"there is no module {error.name!r} in {here} or on the Python path", key="url") from None
        raise ConfigError(f"module {name!r} cannot be imported: {error}", key="url") from error
    except (Exception, SystemExit) as error:  # user code at import: anything can come out of it
        print_exception()
        raise ConfigError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}", key="url") from error


def _function(module: ModuleType, name: str) -> Callable[[Any], Any]:
    function = getattr(module, name, None)
    if function is None:
        functions = [known for known, value in vars(module).items() if callable(value)]
        hint = _nearest(name, functions)
        raise ConfigError(f"module {module.__name__!r} has no function {name!r}{hint}", key="url")
    if not callable(function):
        kind = type(function).__name__
        raise ConfigError(f"{module.__name__}:{name} is not a function, but of type {kind}", key="url")
    checked: Callable[[Any], Any] = function
    return checked


def _nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""

"""Code of the user's own in a job file: a codec, ``name = "my_codecs.py:Rerank"``, or a function of its options.

``"package.module:Rerank"`` names it in an installed module. Loading it runs the module. Only commands that send rows or
rehearse do so; see `load_job`.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanout.codecs import Codec
from fanout.errors import ConfigError
from fanout.options import did_you_mean, option_names, require_known, required_options
from fanout.shipping import run_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

_FORMS = 'write "my_codecs.py:Class", relative to the job file, or "package.module:Class"'


def is_custom(name: object) -> bool:
    """Return True for the name of a class in a file or module, False for that of a registered codec."""
    return isinstance(name, str) and (":" in name or name.endswith(".py"))


def custom_codec(name: str, options: Mapping[str, Any], folder: Path) -> Codec:
    """Import the class ``name`` and make the codec with its ``options``.

    Args:
        name: ``FILE.py:Class`` or ``package.module:Class``.
        options: arguments of the class.
        folder: folder of the job file. Modules in it can be imported.

    Raises:
        ConfigError: there is no such file, module or class; or its code raised an error, whose file and line the
            message names; or an option is unknown, missing or wrong.
    """
    place, class_name = _parts(name, "class", "name")
    return _codec_of(_class_in(_module(place, folder, "name"), class_name, place), options, place)


def custom_function(name: str, folder: Path, key: str) -> Any:
    """Import the function ``FILE.py:function`` or ``package.module:function`` that the option ``key`` names.

    Raises `ConfigError` as `custom_codec` does.
    """
    place, function_name = _parts(name, "function", key)
    module = _module(place, folder, key)
    if not callable(function := getattr(module, function_name, None)):
        own = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        hint = did_you_mean(function_name, own, "; did you mean {!r}?")
        raise ConfigError(f"{place} has no function {function_name!r}{hint}", key=key)
    return function


def _parts(name: str, noun: str, key: str) -> tuple[str, str]:
    place, _, own_name = name.rpartition(":")
    if not place or not own_name:
        forms = _FORMS if noun == "class" else _FORMS.replace("Class", noun)
        raise ConfigError(f"{name!r} names no {noun}; {forms}", key=key)
    return place, own_name


def _module(place: str, folder: Path, key: str) -> ModuleType:
    # At the end of the path: a file beside the job must not take the place of an installed module.
    if (entry := str(folder.absolute())) not in sys.path:
        sys.path.append(entry)
    is_file = place.endswith(".py")
    return _module_in(folder / Path(place).expanduser(), key) if is_file else _module_called(place, folder, key)


def _module_in(file: Path, key: str) -> ModuleType:
    if not file.is_file():
        hint = did_you_mean(file.name, [one.name for one in file.parent.glob("*.py")], "; did you mean {!r}?")
        raise ConfigError(f"there is no file {file.absolute()}{hint}", key=key)
    try:
        return run_file(str(file.absolute()), file.read_bytes())
    except (Exception, SystemExit) as error:  # the user's code: anything can come out of it
        raise ConfigError(f"{_place_of(error, file.name)}: {_words(error)}", key=key) from error


def _module_called(name: str, folder: Path, key: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        # A module that exists, but imports one that does not, would be misreported as missing itself.
        if error.name and f"{name}.".startswith(f"{error.name}."):
            where = f"on the Python path or in {folder.absolute()}"
            raise ConfigError(f"there is no module {error.name!r} {where}; {_FORMS}", key=key) from None
        raise ConfigError(f"{_place_of(error, name)}: {_words(error)}", key=key) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{_place_of(error, name)}: {_words(error)}", key=key) from error


def _class_in(module: ModuleType, name: str, place: str) -> type[Codec]:
    kind = getattr(module, name, None)
    if kind is None:
        own = [
            known for known, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Codec) and value.__module__ == module.__name__
        ]  # fmt: skip
        hint = did_you_mean(name, own, "did you mean {!r}?", f"its codecs are {', '.join(own) or 'none'}")
        raise ConfigError(f"{place} has no class {name!r}; {hint}", key="name")
    if not (isinstance(kind, type) and issubclass(kind, Codec)):
        raise ConfigError(f"{name} in {place} is no subclass of fanout.Codec", key="name")
    # Python would name the abstract methods only in a TypeError without a word about codecs.
    if isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise ConfigError(f"{name} in {place} does not define {missing}, which every codec needs", key="name")
    return kind


def _codec_of(kind: type[Codec], options: Mapping[str, Any], place: str) -> Codec:
    if (known := option_names(kind)) is not None:
        require_known(f"codec {kind.__name__}", options, known)
    # The TypeError of a call would not say which option of the job file is missing.
    for name in required_options(kind):
        if name not in options:
            raise ConfigError(f"{name} is missing: {kind.__name__} has no default for it", key=name)
    try:
        return kind(**options)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{_place_of(error, place)}: {_words(error)}", key="name") from error


def _place_of(error: BaseException, place: str) -> str:
    """Return the file and line of the user's code at which ``error`` was raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    # The deepest frame may be in a library that the user's code called.
    frames = [one for one in traceback.extract_tb(error.__traceback__) if _is_from(one.filename, place)]
    return f"{place}, line {frames[-1].lineno}" if frames else place


def _is_from(filename: str, place: str) -> bool:
    parts = Path(filename).with_suffix("").parts
    wanted = Path(place).with_suffix("").parts if place.endswith(".py") else tuple(place.split("."))
    return parts[-len(wanted) :] == wanted or parts[-len(wanted) - 1 :] == (*wanted, "__init__")


def _words(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(str(text).split())}" if text else type(error).__name__

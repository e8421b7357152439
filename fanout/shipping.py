"""Code of the user's own in a file beside a job: it runs as a module, and travels to other processes as its source.

A module of such a file has no name that another process could import. What it defines is therefore pickled as the
source of the file and a name in it.
"""

from __future__ import annotations

import linecache
import sys
from hashlib import blake2b
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fanout.errors import ConfigError

_PACKAGE = "fanout_custom_codec"
_REMEDY = (
    'install it on every worker, or ship it (Ray: runtime_env={"py_modules": [...]}; Dask: client.upload_file(...))'
)


def run_file(file_name: str, source: bytes) -> ModuleType:
    """Return the module that ``source``, the content of a file of this name, defines. Raises what its code raises."""
    name = _module_name(file_name, source)
    module = ModuleType(name)
    module.__file__ = file_name
    vars(module)["__source__"] = source
    # Dataclasses, among others, look their module up while their class is made.
    sys.modules[name] = module
    try:
        exec(compile(source, file_name, "exec", dont_inherit=True), vars(module))  # noqa: S102 - the user's own code
    except BaseException:
        del sys.modules[name]
        raise
    return module


def shippable(value: Any) -> Any:
    """Return what to pickle in place of a class, function or option; the value itself if any process can import it."""
    module = sys.modules.get(str(getattr(value, "__module__", None)))
    name = getattr(value, "__qualname__", None)
    if module is None or name is None or "<locals>" in name:
        return value
    if module.__name__.startswith(f"{_PACKAGE}."):
        return _InFile(Path(str(module.__file__)).name, vars(module)["__source__"], name)
    # Ray and Dask pickle the code of __main__ itself; plain pickle names it.
    return value if module.__name__ == "__main__" or _is_pickled_by_value(module) else _InModule(module.__name__, name)


class _InFile(NamedTuple):
    """A name in a file that travels with it."""

    file_name: str
    source: bytes
    name: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_file, tuple(self)


class _InModule(NamedTuple):
    """A name in a module that has to be installed where it is unpickled."""

    module: str
    name: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_module, tuple(self)


def _from_file(file_name: str, source: bytes, name: str) -> Any:
    if (known := sys.modules.get(_module_name(file_name, source))) is not None:
        return attrgetter(name)(known)
    try:
        module = run_file(file_name, source)
    except ModuleNotFoundError as error:
        problem = f"{file_name}, which came with the job, imports {error.name!r}, which is not installed here"
        raise ConfigError(f"{problem}: {_REMEDY}", key="codec") from None
    # The text of the file is not on this disk; tracebacks and the identity of a function quote it.
    lines = source.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[file_name] = (len(source), None, lines, file_name)
    return attrgetter(name)(module)


def _from_module(module: str, name: str) -> Any:
    try:
        return attrgetter(name)(import_module(module))
    except ModuleNotFoundError as error:
        problem = f"{name} is in the module {module!r}, which cannot be imported here ({error})"
        raise ConfigError(f"{problem}: {_REMEDY}", key="codec") from None


def _module_name(file_name: str, source: bytes) -> str:
    # A name of its own, so that a file called json.py does not take the place of the module json, and two jobs' files
    # of one name do not take each other's.
    return f"{_PACKAGE}.{Path(file_name).stem}_{blake2b(source, digest_size=8).hexdigest()}"


def _is_pickled_by_value(module: ModuleType) -> bool:
    """True if the user has asked cloudpickle, which Ray and Dask use, to pickle the code of this module itself."""
    for name in ("cloudpickle", "ray.cloudpickle"):
        listed = getattr(sys.modules.get(name), "list_registry_pickle_by_value", None)
        if listed is not None and any(f"{module.__name__}.".startswith(f"{one}.") for one in listed()):
            return True
    return False

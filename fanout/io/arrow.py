"""pyarrow, an optional dependency: checked when a job is read, and imported when it is needed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

Arrow: TypeAlias = Any
"""An object of pyarrow, which ships no types."""

OLDEST = 18
"""The oldest major version that reads and writes all that this package uses."""

_INSTALL = "pip install 'fanout-ml[arrow]'"


def missing_pyarrow() -> str | None:
    """Return why pyarrow cannot be used, with the remedy; None if it can.

    Does not import pyarrow, which takes 0.1 s: a writer needs it only once the first answers have come.
    """
    version = _version()
    if version is None:
        return f"pyarrow: {_INSTALL}"
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) < OLDEST:
        upgrade = _INSTALL.replace("install", "install --upgrade")
        return f"pyarrow {OLDEST} or later, and {version} is installed: {upgrade}"
    return None


def import_pyarrow() -> Arrow:
    """Return the module. Raises `ImportError`, whose text names the remedy."""
    if (missing := missing_pyarrow()) is not None:
        raise ImportError(missing)
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError(f"pyarrow (the installed one cannot be imported: {error}): {_INSTALL}") from None
    return pa


def _version() -> str | None:
    """Return the version of pyarrow; None if it is not installed."""
    # None in sys.modules marks a module that must not be imported, as in tests.
    if "pyarrow" in sys.modules:
        return getattr(sys.modules["pyarrow"], "__version__", None)
    spec = find_spec("pyarrow")
    if spec is None or spec.origin is None:
        return None
    # The name of this folder holds the version. importlib.metadata reads it too, but takes 20 ms to import.
    for folder in Path(spec.origin).parents[1].glob("pyarrow-*.dist-info"):
        return folder.name.removeprefix("pyarrow-").removesuffix(".dist-info")
    # An installation without this folder, for instance a build of one's own.
    from importlib.metadata import version

    return version("pyarrow")

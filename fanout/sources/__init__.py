"""Where rows come from: one file format a module, `open_source` to choose among them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from fanout.errors import InputError
from fanout.sources.npy import open_npy
from fanout.sources.npz import open_npz

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fanout.types import Rows

    Open = Callable[[Path, str | Sequence[str] | None], Rows]

__all__ = ["open_npy", "open_npz", "open_source"]

_FORMATS: dict[str, Open] = {".npy": open_npy, ".npz": open_npz}


def open_source(path: Path, column: str | Sequence[str] | None = None) -> Rows:
    """The rows of the file at ``path``.

    Args:
        path: the file; its suffix tells the format.
        column: name of the array to read, or a list of names for several inputs a row. Not needed where the file
            holds exactly one array.

    Returns:
        An array whose first axis is the rows; where ``column`` is a list, a mapping from name to such an array.

    Raises:
        InputError: the file or a column of it cannot be used; its ``key`` is ``"input.path"`` or ``"input.column"``.
    """
    _require_file(path)
    if path.suffix.lower() not in _FORMATS:
        raise InputError(
            f"{path.name} has no suffix that tells its format; known are {', '.join(_FORMATS)}", key="input.path"
        )
    try:
        return _FORMATS[path.suffix.lower()](path, column)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", key="input.path") from None


def _require_file(path: Path) -> None:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:  # for instance a name that is too long, or a folder that may not be entered
        raise InputError(f"{path} cannot be read: {error.strerror}", key="input.path") from None
    if is_folder:
        raise InputError(f"{path} is a folder; name one file in it", key="input.path")
    if not exists:
        raise InputError(f"there is no file {path.absolute()}{_nearest(path)}", key="input.path")


def _nearest(path: Path) -> str:
    try:
        neighbours = [entry.name for entry in path.absolute().parent.iterdir() if entry.suffix.lower() in _FORMATS]
    except OSError:
        return ", nor its folder"
    found = get_close_matches(path.name, neighbours, n=1)
    return f'; did you mean "{path.with_name(found[0])}"?' if found else ""

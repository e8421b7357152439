"""Rows from a ``.npy`` file, read as they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fanout.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.types import Array

OBJECTS = (
    "an array of objects, which only unpickling could read, and that may run any code; save the rows with a plain "
    "dtype instead, for instance np.save(path, np.stack(rows).astype(np.float32))"
)


def open_npy(path: Path, column: str | Sequence[str] | None = None) -> Array:
    """The array of a ``.npy`` file, mapped read-only, so that a file larger than memory can be sent.

    Raises:
        InputError: not a ``.npy`` file, an array that has no rows to send, or a ``column``, which it cannot have.
    """
    if column is not None:
        raise InputError(f"{path.name} is one array without a name: leave column out", key="input.column")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise unreadable(path, error, what="a .npy file") from None
    if not isinstance(array, np.ndarray):  # np.load goes by the content: this is an archive with a wrong name
        array.close()
        raise InputError(f"{path.name} is an archive of arrays: give it the suffix .npz", key="input.path")
    require_rows(array, path.name, key="input.path")
    return array


def require_rows(array: Array, what: str, *, key: str) -> None:
    """Raise `InputError` if ``array`` has no first axis, or holds what no codec can send."""
    if array.ndim == 0:
        raise InputError(f"{what} holds a single value, not rows: it needs a first axis", key=key)
    if array.dtype.kind in "OV":
        raise InputError(f"{what} has dtype {array.dtype}, of which no request can be made; use a plain one", key=key)


def unreadable(path: Path, error: Exception, *, what: str, key: str = "input.path") -> InputError:
    """The error to raise where numpy could not read ``path``."""
    text = " ".join(str(error).split())
    # numpy tells these apart by their text alone.
    if "Object arrays" in text or "Python objects" in text:
        return InputError(f"{path.name} holds {OBJECTS}", key=key)
    if "pickled" in text:  # its guess at what has neither file format's first bytes
        text = "it does not begin as one does"
    return InputError(f"{path} cannot be read as {what}: {text}", key=key)

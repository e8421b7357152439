"""Devices of a test's own: those of the system are never put where a fault in the code could replace them."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def like_null(path: Path) -> None:
    """Make a device like ``/dev/null`` at ``path``; a pipe where only an administrator may make devices."""
    with suppress(PermissionError):
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        return
    os.mkfifo(path)

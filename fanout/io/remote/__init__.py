"""Inputs and outputs behind URLs: files of object stores (``s3://``, ``gs://``, ``az://``) and of web servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._lazy import lazy

if TYPE_CHECKING:
    from fanout.io.remote.destination import Destination
    from fanout.io.remote.file import InputPath, RemoteFile
    from fanout.io.remote.finding import find_remote_files
    from fanout.io.remote.urls import is_web, shown, staged_path, url_of

__all__ = ["Destination", "InputPath", "RemoteFile", "find_remote_files", "is_web", "shown", "staged_path", "url_of"]

__getattr__ = lazy(
    __name__,
    {
        "fanout.io.remote.destination": ("Destination",),
        "fanout.io.remote.file": ("InputPath", "RemoteFile"),
        "fanout.io.remote.finding": ("find_remote_files",),
        "fanout.io.remote.urls": ("is_web", "shown", "staged_path", "url_of"),
    },
)

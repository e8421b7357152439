"""Find the files that a URL names: one file, all files of a folder, or those that match a pattern."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from fanout.errors import InputError
from fanout.io.remote.object_stores import Bucket, StoredFile
from fanout.io.remote.urls import is_web, parts_of
from fanout.io.remote.web import WebFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.addresses import Storage
    from fanout.io.remote.file import RemoteFile

_SPECIAL = re.compile(r"[*?\[]")
_HIDDEN = (".", "_")


def find_remote_files(url: str, storage: Storage) -> list[RemoteFile]:
    """Return the files that a URL names, in no certain order.

    A URL of a web server names one file. In an object store it names an object, else all objects in a folder, or those
    that match a pattern in which ``**`` stands for any number of folders.

    Raises:
        InputError: there is none, or it cannot be looked up.
        ConfigError: the package for object stores is missing, or an option of ``storage`` cannot be used.
    """
    try:
        if is_web(url):
            return [WebFile(url, storage.https)]
        scheme, name, key = parts_of(url)
        return _find(Bucket(scheme, name, storage, "input.path"), key)
    except OSError as error:
        raise InputError(f"{url} cannot be read: {error.strerror}", key="input.path") from None


def _find(bucket: Bucket, key: str) -> list[RemoteFile]:
    url = bucket.url_of(key)
    # An object with a bracket in its name comes before a pattern.
    if key and not key.endswith("/") and (version := bucket.version_of(key)) is not None:
        return [StoredFile(bucket, key, version)]
    pattern = key.split("/")
    is_pattern = _SPECIAL.search(key) is not None
    plain = next((i for i, part in enumerate(pattern) if _SPECIAL.search(part)), len(pattern))
    prefix = "".join(f"{part}/" for part in pattern[:plain] if part)
    files: list[RemoteFile] = []
    for found, version in bucket.list(prefix):
        parts = found.removeprefix(prefix).split("/")
        # Consoles make folders visible by empty objects whose names end with a slash.
        if not parts[-1] or any(part.startswith(_HIDDEN) for part in parts):
            continue
        if is_pattern and not _matches(parts, pattern[plain:]):
            continue
        if not is_pattern and len(parts) > 1:
            remedy = f"name the files with a pattern, such as {bucket.url_of(prefix)}**/*.parquet"
            raise InputError(f"{url} holds folders too ({parts[0]}): {remedy}", key="input.path")
        files.append(StoredFile(bucket, found, version, "/".join(parts)))
    if not files:
        problem = "no object matches" if is_pattern else "there is no object, and no folder of objects,"
        raise InputError(f"{problem} {url}", key="input.path")
    return files


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return True if the parts of a key match those of a pattern, as in `pathlib.Path.glob`."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])

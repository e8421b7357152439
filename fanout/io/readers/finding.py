"""The files that an input names: a path, a folder or a pattern, or the URL of one of them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fanout._lazy import pattern
from fanout.errors import InputError
from fanout.io.remote.file import is_web, parts_of, shown, shown_path, url_of
from fanout.io.remote.object_stores import Bucket, StoredFile
from fanout.io.remote.web import WebFile
from fanout.options import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fanout.addresses import Storage
    from fanout.io.remote.file import InputPath, RemoteFile

GZIP = ".gz"

FILES = "files"
"""Format of files that are rows themselves."""

LINE_FORMATS = ("jsonl", "csv", "tsv", "txt")
"""Formats of lines, which may be compressed, come from stdin, and go on from one file to the next."""

_SUFFIXES = {
    ".npy": "npy", ".npz": "npz", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow",
    ".ipc": "arrow", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "txt",
}  # fmt: skip
# Lines can be read from a compressed stream; the other formats need to seek in the file.
_SUFFIXES |= {suffix + GZIP: name for suffix, name in _SUFFIXES.items() if name in LINE_FORMATS}
_MEDIA = (
    ".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".wav", ".mp3", ".flac", ".ogg", ".m4a", ".mp4",
    ".webm", ".pdf",
)  # fmt: skip
_SUFFIXES |= dict.fromkeys(_MEDIA, FILES)

P = TypeVar("P", bound="InputPath")

# Spark and Hive leave such files beside the data: _SUCCESS, _metadata, .part-0.crc.
_HIDDEN = (".", "_")
_PATTERN = pattern(r"[*?\[]")


def find(
    path: Path | str,
    format: str | None,  # noqa: A002
    storage: Storage,
) -> tuple[Sequence[InputPath], str]:
    """Return the files that ``path`` names, in natural order, and their common format.

    Args:
        path: a file, a folder, or a pattern in which ``**`` stands for any number of folders; or the URL of an object,
            a folder, a pattern, or a file of a web server.
        format: the format, if the suffix does not decide.
        storage: access to remote files.

    Raises:
        InputError: there are no files, or they have several formats, or an unknown one; or they cannot be looked up.
        ConfigError: the package for object stores is missing, or an option of ``storage`` cannot be used.
    """
    url = url_of(path)
    try:
        if url is None:
            return _find_local(Path(path), format)
        files = in_natural_order(_find_remote(url, storage))
        return _of_one_format(files, shown(url), format, is_named=len(files) == 1)
    except OSError as error:  # for instance a name that is too long, or a folder that may not be entered
        raise InputError(f"{shown_path(path)} cannot be read: {error.strerror or error}", key="input.path") from None


def _find_local(path: Path, format: str | None) -> tuple[Sequence[Path], str]:  # noqa: A002
    # From Python 3.14 on, `is_dir` and `exists` are False for a path that cannot be looked up.
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):
        path.stat()
    # An existing file comes before a pattern: its name may have a bracket in it.
    is_named = path.exists() and not path.is_dir()
    if is_named:
        files = [path]
    elif path.is_dir():
        files = _in_folder(path)
    elif _PATTERN.search(str(path)):
        files = _matching(path)
    else:
        raise InputError(f"there is no file {path.absolute()}{_nearest(path)}", key="input.path")
    for file in files:
        # Opening a pipe waits for its writer, and a device may have no end; both can be read only once.
        if not file.is_file():
            problem = 'is not a regular file: save the rows in one, or send them through stdin (path "-")'
            if file.is_symlink() and not file.exists():
                problem = "is a link to a file that is not there: remove it, or put the file back"
            raise InputError(f"{file} {problem}", key="input.path")
    return _of_one_format(files, str(path if is_named else path.absolute()), format, is_named=is_named)


def _of_one_format(
    files: list[P],
    name: str,
    format: str | None,  # noqa: A002
    *,
    is_named: bool,
) -> tuple[Sequence[P], str]:
    """Return files without the empty ones, and their common format. A file that the user has named may be empty."""
    # An empty part of a dataset is an empty file in some writers, and has no header to read.
    not_empty = files if is_named else [file for file in files if file.stat().st_size]
    if not not_empty:
        raise InputError(f"{name} has no file in it that is not empty", key="input.path")
    format = format or _common_format(name, not_empty)  # noqa: A001
    # An empty file of rows has none, but an empty image is a row that fails.
    return files if format == FILES else not_empty, format


def folder_of(path: Path) -> Path:
    """Return the folder that all files are in which ``path`` names: a file, a folder, or a pattern."""
    return path if path.is_dir() else path.parent if path.exists() else _beginning(path)[0]


def would_find(path: Path, file: Path) -> bool:
    """Return True if ``path``, a folder or a pattern, names ``file`` as well, once that exists."""
    parts: tuple[str, ...]
    if path.is_dir():
        root, parts = path, ("*",)
    elif path.exists() or not _PATTERN.search(str(path)):
        return False
    else:
        root, parts = _beginning(path)
    root, file = Path(os.path.realpath(root)), Path(os.path.realpath(file))
    below = file.relative_to(root).parts if file.is_relative_to(root) else ()
    return _matches(below, parts) and not any(part.startswith(_HIDDEN) for part in below)


def in_natural_order(paths: Iterable[P]) -> list[P]:
    """Return the paths sorted by the numbers in them: ``part-2`` before ``part-10``."""

    # Each run of digits is compared as a number; -1 puts texts before numbers at the same place.
    def key(part: str) -> list[tuple[int, str]]:
        return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"([0-9]+)", part)]

    return sorted(paths, key=lambda path: ([key(part) for part in path.parts], path.parts))


def _in_folder(folder: Path) -> list[Path]:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(_HIDDEN)]
    if folders := sorted(entry.name for entry in entries if entry.is_dir()):
        listed = ", ".join(folders[:3]) + (", ..." if len(folders) > 3 else "")
        remedy = f"name the files with a pattern, such as {folder / '**' / '*.parquet'}"
        raise InputError(f"{folder} holds folders too ({listed}): {remedy}", key="input.path")
    return in_natural_order(entries)


def _matching(pattern: Path) -> list[Path]:
    root, parts = _beginning(pattern)
    matches = [
        match
        for match in root.glob("/".join(parts))
        if match.is_file() and not any(part.startswith(_HIDDEN) for part in match.relative_to(root).parts)
    ]
    if not matches:
        raise InputError(f"no file matches {pattern.absolute()}", key="input.path")
    return in_natural_order(matches)


def _beginning(pattern: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the folder in which a pattern begins, and the rest of its parts."""
    root = Path(pattern.anchor)
    parts = pattern.parts[1:] if pattern.anchor else pattern.parts
    # Folders that exist under their own name are no part of the pattern: one may have a bracket in its name.
    while (root / parts[0]).exists():
        root, parts = root / parts[0], parts[1:]
    return root, parts


def _suffix_of(path: InputPath) -> str:
    """Return the suffix that decides the format; ``.csv.gz`` for a file that gzip has compressed."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + GZIP if suffix == GZIP else suffix


def _format_of(path: InputPath) -> str:
    suffix = _suffix_of(path)
    if suffix not in _SUFFIXES:
        problem = f"{suffix} is not the suffix of a known format" if suffix else "its name has no suffix"
        remedy = f"known are {', '.join(_SUFFIXES)}, or set format"
        raise InputError(f"{path.name}: {problem}; {remedy}", key="input.path")
    return _SUFFIXES[suffix]


def _common_format(name: str, files: Sequence[InputPath]) -> str:
    formats: dict[str, InputPath] = {}
    for file in files:
        formats.setdefault(_SUFFIXES.get(_suffix_of(file), "unknown"), file)
    if len(formats) == 1:
        return _format_of(files[0])
    examples = ", ".join(f"{one} ({file.name})" for one, file in formats.items())
    example = next(file for one, file in formats.items() if one != "unknown")
    remedy = f"choose one with a pattern, such as {example.with_name('*' + _suffix_of(example))}"
    raise InputError(f"{name} holds files of several formats: {examples}; {remedy}", key="input.path")


def _nearest(path: Path) -> str:
    """Return the end of a message about a missing file: the file beside it with the most similar name."""
    try:
        neighbours = [entry.name for entry in path.absolute().parent.iterdir() if _suffix_of(entry) in _SUFFIXES]
    except OSError:
        return ", nor its folder"
    near = nearest(path.name, neighbours)
    return f'; did you mean "{path.with_name(near)}"?' if near else ""


def _find_remote(url: str, storage: Storage) -> list[RemoteFile]:
    if is_web(url):
        return [WebFile(url, storage.https)]
    scheme, name, key = parts_of(url)
    return _find_stored(Bucket(scheme, name, storage, "input.path"), key)


def _find_stored(bucket: Bucket, key: str) -> list[RemoteFile]:
    url = bucket.url_of(key)
    # An object with a bracket in its name comes before a pattern.
    if key and not key.endswith("/") and (version := bucket.version_of(key)) is not None:
        return [StoredFile(bucket, key, version)]
    pattern = key.split("/")
    is_pattern = _PATTERN.search(key) is not None
    plain = next((i for i, part in enumerate(pattern) if _PATTERN.search(part)), len(pattern))
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

"""Which files a path means: one, those of a folder, or those that a pattern matches; and of which format they are."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from fanout.errors import InputError
from fanout.io.readers.origins import GZIP

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HIDDEN = (".", "_")  # also what Spark and Hive leave beside the data: _SUCCESS, _metadata, .part-0.crc
_PATTERN = re.compile(r"[*?\[]")


def found(path: Path, suffixes: Mapping[str, str], format: str | None) -> tuple[list[Path], str]:  # noqa: A002
    """The files that ``path`` means, in natural order, and the one format that they have.

    Args:
        path: a file, a folder, or a pattern in which ``**`` stands for any number of folders.
        suffixes: suffix to format.
        format: the format if it is not to be told by the suffix.

    Raises:
        InputError: there are none, or they are of several formats, or of none that is known.
    """
    try:
        if path.is_dir():
            files = _in_folder(path)
        elif path.exists():
            _require_regular(path)
            return [path], format or _format_of(path, suffixes)
        elif _PATTERN.search(str(path)):
            files = _matching(path)
        else:
            raise InputError(f"there is no file {path.absolute()}{_nearest(path, suffixes)}", key="input.path")
        for file in files:
            _require_regular(file)
        files = [file for file in files if file.stat().st_size]  # what an empty part of a dataset leaves
    except OSError as error:  # for instance a name that is too long, or a folder that may not be entered
        raise InputError(f"{path} cannot be read: {error.strerror}", key="input.path") from None
    if not files:
        raise InputError(f"{path.absolute()} has no file in it that is not empty", key="input.path")
    return files, format or _common_format(path, files, suffixes)


def _require_regular(path: Path) -> None:
    """Refuse a pipe, which keeps who opens it waiting, and a device, which may have no end: a file is read twice."""
    if not path.is_file():
        told = f"{path} is not a regular file"
        raise InputError(f'{told}: save the rows in one, or send them through stdin (path "-")', key="input.path")


def suffix_of(path: Path) -> str:
    """The suffix that tells the format; that of what is packed, where gzip has packed it."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + GZIP if suffix == GZIP else suffix


def _in_folder(folder: Path) -> list[Path]:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(_HIDDEN)]
    if folders := sorted(entry.name for entry in entries if entry.is_dir()):
        told = f"{folder} holds folders too ({_listed(folders)}): say which files with a pattern"
        raise InputError(f"{told}, such as {folder / '**' / '*.parquet'}", key="input.path")
    return in_order(entries)


def _matching(pattern: Path) -> list[Path]:
    # Only what is not there under its own name is a pattern: a folder may have a bracket in its name.
    root = Path(pattern.anchor)
    parts = pattern.parts[1:] if pattern.anchor else pattern.parts
    while (root / parts[0]).exists():
        root, parts = root / parts[0], parts[1:]
    matches = [match for match in root.glob("/".join(parts)) if match.is_file() and not _is_hidden(match, root)]
    if not matches:
        raise InputError(f"no file matches {pattern.absolute()}", key="input.path")
    return in_order(matches)


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(_HIDDEN) for part in path.relative_to(root).parts)


def in_order(paths: Iterable[Path]) -> list[Path]:
    """The paths sorted as people count: ``part-2`` before ``part-10``."""
    return sorted(paths, key=lambda path: (_natural(path), path.parts))


def _natural(path: Path) -> list[list[tuple[int, str]]]:
    def key(part: str) -> list[tuple[int, str]]:
        return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"([0-9]+)", part)]

    return [key(part) for part in path.parts]


def _format_of(path: Path, suffixes: Mapping[str, str]) -> str:
    suffix = suffix_of(path)
    if suffix not in suffixes:
        raise InputError(
            f"{path.name}: {f'{suffix} is not the suffix of a known format' if suffix else 'its name has no suffix'}; "
            f"known are {', '.join(suffixes)}, or set format",
            key="input.path",
        )
    return suffixes[suffix]


def _common_format(path: Path, files: list[Path], suffixes: Mapping[str, str]) -> str:
    formats: dict[str, Path] = {}
    for file in files:
        formats.setdefault(suffixes.get(suffix_of(file), "unknown"), file)
    if len(formats) == 1:
        return _format_of(files[0], suffixes)
    examples = ", ".join(f"{name} ({file.name})" for name, file in formats.items())
    told = f"{path} holds files of several formats: {examples}; say which with a pattern"
    raise InputError(f"{told}, such as {files[0].with_name('*' + suffix_of(files[0]))}", key="input.path")


def _nearest(path: Path, suffixes: Mapping[str, str]) -> str:
    try:
        neighbours = [entry.name for entry in path.absolute().parent.iterdir() if suffix_of(entry) in suffixes]
    except OSError:
        return ", nor its folder"
    close = get_close_matches(path.name, neighbours, n=1)
    return f'; did you mean "{path.with_name(close[0])}"?' if close else ""


def _listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")

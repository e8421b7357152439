"""Names of the files that a run writes: all begin with the full name of its output.

``y.npy`` has ``y.npy.ok.npy`` and ``y.npy.failures.jsonl`` beside it, so that ``y.jsonl`` in the same folder shares
none of them. No two outputs share a file unless one of them is called like a file of the other, which is refused.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING
from urllib.parse import quote

from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

KEY = "output.path"
PARTIAL = ".partial"
"""Added to a file's name until it is whole."""

ORDERED = ".ordered"
"""Added to the name of an output whose rows are put in order."""

REBUILT = ".rebuilt"
"""Added to the name of a file that is to replace that of an unfinished run."""

JOURNAL = ".journal"
_MASK = ".ok.npy"
_FAILURES = ".failures.jsonl"
_COLUMN = ".npy"
_NEW = ".new"
_BESIDE = (
    "", PARTIAL, ORDERED, REBUILT, JOURNAL, JOURNAL + _NEW, _MASK, _MASK + PARTIAL, _FAILURES, _FAILURES + PARTIAL,
)  # fmt: skip
_DIGEST_BYTES = 8
_SHORTEST_COLUMN = 2 + 2 * _DIGEST_BYTES
"""Bytes of a column's name that is too long and has been cut to its digest."""


def report_paths(output: Path) -> tuple[Path, Path]:
    """The mask's and the failures': ``y.npy`` -> ``y.npy.ok.npy``, ``y.npy.failures.jsonl``."""
    return _beside(output, _MASK), _beside(output, _FAILURES)


def journal_path(output: Path) -> Path:
    """``y.npy`` -> ``y.npy.journal``."""
    return _beside(output, JOURNAL)


def column_paths(output: Path, names: Collection[str]) -> dict[str, Path]:
    """The file of each of several outputs: ``y.npy`` -> ``y.npy.NAME.npy``.

    A server chooses the names. What is not fit for a file name is quoted as in a URL, so that a ``../`` stays inside
    it; so are a name that is the mask's, and capital letters where names differ in nothing else, for some file systems
    do not tell them apart. What is too long is cut, with a digest of the whole name at its end.
    """
    lower = Counter(name.lower() for name in names)
    room = _longest_name(output.parent) - len(os.fsencode(f"{output.name}.{_COLUMN}{PARTIAL}"))
    paths = {}
    for name in names:
        quoted = _quoted(name)
        if name.lower() == "ok":
            quoted = "".join(f"%{byte:02X}" for byte in name.encode())
        elif lower[name.lower()] > 1:
            quoted = "".join(f"%{ord(letter):02X}" if letter in ascii_uppercase else _quoted(letter) for letter in name)
        if len(quoted) > room:
            digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
            quoted = f"{quoted[: max(0, room - _SHORTEST_COLUMN)]}%~{digest}"  # "%~" is in no name that was quoted
        paths[name] = _beside(output, f".{quoted}{_COLUMN}")
    return paths


def check_names(output: Path) -> None:
    """Raise `ConfigError` for an output that no run can write, as far as can be known without touching a file."""
    with _blaming(output):
        if output.is_dir():
            raise ConfigError(f"{output} is a folder; name a file in it", key=KEY)
        for path in dict.fromkeys((output.absolute(), _resolved(output))):
            _check_folder(output, path)
        for base in _bases(output):
            for suffix in _BESIDE:
                _check_file(output, _beside(base, suffix))
        _require_no_other_job(output)


def require_apart(output: Path, others: Iterable[Path], kind: str = "input") -> None:
    """Raise `ConfigError` if a run into ``output`` would replace or remove one of ``others``."""
    others = list(others)
    if not others:
        return
    with _blaming(output):
        linked = _linked(output)
        for other in others:
            path = _resolved(other)
            if _claims(output, path) or path in linked or any(_same_file(other, link) for link in linked):
                raise ConfigError(
                    f"{output} would overwrite the {kind} {other}: the run writes it, or a file of that name beside "
                    "it; choose another name or folder",
                    key=KEY,
                )


def unwritable(path: Path, why: str) -> ConfigError:
    """The error to raise where ``path`` cannot be written."""
    return ConfigError(f"{path} cannot be written: {why}", key=KEY)


@contextmanager
def _blaming(output: Path) -> Iterator[None]:
    """Raise `ConfigError` where the output's name is none, or its folder cannot be looked at."""
    if not output.name or "\0" in str(output):
        raise unwritable(output, "that is no name of a file")
    try:
        yield
    except OSError as error:
        raise unwritable(output, error.strerror or str(error)) from None


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(output.name + suffix)


def _bases(output: Path) -> list[Path]:
    """The output as it is called, and where it is a symbolic link, what it stands for."""
    named = Path(os.path.realpath(output.absolute().parent), output.name)
    return list(dict.fromkeys((named, _resolved(output))))


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError where links go round


def _claims(output: Path, path: Path) -> bool:
    """True if a run into ``output`` may write a file of that name. ``path`` is resolved."""
    for base in _bases(output):
        if path.parent != base.parent or not path.name.startswith(base.name):
            continue
        rest = path.name[len(base.name) :]
        if rest in _BESIDE or (base.suffix.lower() == _COLUMN and _is_column(rest)):
            return True
    return False


def _is_column(rest: str) -> bool:
    name = rest.removesuffix(PARTIAL).removesuffix(REBUILT)
    return name.startswith(".") and name.endswith(_COLUMN) and len(name) >= len(f".{_COLUMN}")


def _linked(output: Path) -> set[Path]:
    """The files that are there under the names of a run: links among them stand for others."""
    files = {_beside(base, suffix) for base in _bases(output) for suffix in _BESIDE}
    for base in _bases(output):
        if base.suffix.lower() == _COLUMN and base.parent.is_dir():
            entries = (path for path in base.parent.iterdir() if path.name.startswith(base.name))
            files |= {path for path in entries if _is_column(path.name[len(base.name) :])}
    return {_resolved(path) for path in files if path.exists()}


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _check_folder(output: Path, path: Path) -> None:
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        raise unwritable(output, f"{folder} is not a folder")
    rest = max(len(_FAILURES + PARTIAL), len(f".{_COLUMN}{PARTIAL}") + _SHORTEST_COLUMN)
    if len(os.fsencode(path.name)) + rest > _longest_name(folder):
        raise unwritable(output, f"its name is too long for the files beside it, such as {path.name}{_FAILURES}")
    # Replacing a file asks for nothing but its folder, but one that is write-protected is so on purpose.
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise unwritable(output, "no permission")


def _check_file(output: Path, path: Path) -> None:
    """Refuse to replace a device, a pipe or a folder, and to write a temporary file through a link."""
    if path.suffix in (PARTIAL, ORDERED, REBUILT, _NEW) and path.is_symlink():
        raise unwritable(output, f"{path} is a symbolic link, and a run keeps its unfinished rows there: remove it")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        link = f", but a link to {_resolved(path)}," if path.is_symlink() else ""
        raise unwritable(output, f"{path}{link} is not a regular file")


def _require_no_other_job(output: Path) -> None:
    """Refuse a name that is a file's of another job: its journal says where it writes."""
    own = _bases(output)[0]
    for base in _bases(output):
        if not base.parent.is_dir():
            continue
        for journal in base.parent.iterdir():
            other = journal.with_suffix("")
            if journal.suffix != JOURNAL or other == own:
                continue
            if _claims(other, base) or _claims(output, other):
                raise ConfigError(
                    f"{output} would share files with the job that writes {other.name}, whose journal is beside it; "
                    f"choose another name, or remove {journal.name} if that job is done with",
                    key=KEY,
                )


def _quoted(text: str) -> str:
    return quote(text, safe=" ", errors="surrogatepass")


def _longest_name(folder: Path) -> int:
    existing = next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
    try:
        return os.pathconf(existing, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # no such call, or a file system that does not know
        return 255

"""Names of the files that a run writes: all begin with the full name of its output.

``y.npy`` has ``y.npy.ok.npy`` and ``y.npy.failures.jsonl`` beside it, so that ``y.jsonl`` in the same folder shares
none of them. Two outputs share a file only if one of them is called like a file of the other, which is an error.
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
"""Added to the name of an output that is assembled from its spool."""

REBUILT = ".rebuilt"
"""Added to the name of a file that will replace that of an unfinished run."""

JOURNAL = ".journal"
_MASK = ".ok.npy"
_FAILURES = ".failures.jsonl"
REPORT = ".report.html"
RECORDING = ".report.jsonl"
_PARTS = ".parts"
UPLOADS = ".uploads.json"
_COLUMN = ".npy"
_NEW = ".new"
_BESIDE = (
    "", PARTIAL, ORDERED, REBUILT, JOURNAL, JOURNAL + _NEW, _MASK, _MASK + PARTIAL, _FAILURES, _FAILURES + PARTIAL,
    REPORT, REPORT + PARTIAL, RECORDING, UPLOADS, UPLOADS + PARTIAL,
)  # fmt: skip

# A column's name that is too long is cut, and ends with "%~" and the digest of the whole name in hexadecimal digits.
_DIGEST_BYTES = 8
_SHORTEST_COLUMN = 2 + 2 * _DIGEST_BYTES


def report_paths(output: Path) -> tuple[Path, Path]:
    """Return the paths of the mask and of the failures: ``y.npy`` -> ``y.npy.ok.npy``, ``y.npy.failures.jsonl``."""
    return _beside(output, _MASK), _beside(output, _FAILURES)


def journal_path(output: Path) -> Path:
    """Return the path of an output's journal: ``y.npy`` -> ``y.npy.journal``."""
    return _beside(output, JOURNAL)


def run_report_path(output: Path) -> Path:
    """Return the path of the report of a run: ``y.npy`` -> ``y.npy.report.html``."""
    return _beside(output, REPORT)


def recording_path(output: Path) -> Path:
    """Return the path of the recording from which the report is made: ``y.npy`` -> ``y.npy.report.jsonl``."""
    return _beside(output, RECORDING)


def parts_folder(output: Path) -> Path:
    """Return the folder for the parts of a run on a cluster: ``y.npy`` -> ``y.npy.parts``."""
    return _beside(output, _PARTS)


def uploads_path(output: Path) -> Path:
    """Return the path of the record of uploaded files: ``y.npy`` -> ``y.npy.uploads.json``."""
    return _beside(output, UPLOADS)


def column_paths(output: Path, names: Collection[str]) -> dict[str, Path]:
    """Return the file of each of several outputs: ``y.npy`` -> ``y.npy.NAME.npy``.

    A server chooses the names. Characters that a file name cannot have are quoted as in a URL, so that ``../`` stays
    inside it. Names that are too long are cut, with a digest of the whole name at their end.
    """
    lower = Counter(name.lower() for name in names)
    room = _longest_name(output.parent) - len(os.fsencode(f"{output.name}.{_COLUMN}{PARTIAL}"))
    paths = {}
    for name in names:
        quoted = _quoted(name)
        # A column called "ok" would have the file of the mask.
        if name.lower() == "ok":
            quoted = "".join(f"%{byte:02X}" for byte in name.encode())
        # Some file systems do not distinguish capital letters.
        elif lower[name.lower()] > 1:
            quoted = "".join(f"%{ord(letter):02X}" if letter in ascii_uppercase else _quoted(letter) for letter in name)
        if len(quoted) > room:
            digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
            # No quoted name contains "%~".
            quoted = f"{quoted[: max(0, room - _SHORTEST_COLUMN)]}%~{digest}"
        paths[name] = _beside(output, f".{quoted}{_COLUMN}")
    return paths


def check_names(output: Path) -> None:
    """Raise `ConfigError` for an output that a run could not write. Touches no file, so it cannot find every cause."""
    with _naming_output(output):
        if output.is_dir():
            raise ConfigError(f"{output} is a folder; name a file in it", key=KEY)
        for path in dict.fromkeys((output.absolute(), _resolved(output))):
            _check_folder(output, path)
        for path in written_paths(output):
            _check_file(output, path)
        _require_no_other_job(output)


def written_paths(output: Path) -> list[Path]:
    """Return the paths that a run into ``output`` may write, but for those of several outputs."""
    return [_beside(base, suffix) for base in _bases(output) for suffix in _BESIDE]


def require_apart(output: Path, others: Iterable[Path], kind: str = "input") -> None:
    """Raise `ConfigError` if a run into ``output`` would replace or remove one of ``others``."""
    # Two names may be the same file: by a link, or by another case of letters on some file systems.
    others = list(others)
    if not others:
        return
    with _naming_output(output):
        linked = _linked(output)
        for other in others:
            path = _resolved(other)
            if _claims(output, path) or path in linked or any(_same_file(other, link) for link in linked):
                raise ConfigError(
                    f"{output} would overwrite the {kind} {other}: the run writes it, or a file of that name beside "
                    "it; choose another name or folder",
                    key=KEY,
                )


def unwritable(path: Path, reason: str) -> ConfigError:
    """Return the error for an output that cannot be written."""
    return ConfigError(f"{path} cannot be written: {reason}", key=KEY)


@contextmanager
def _naming_output(output: Path) -> Iterator[None]:
    """Raise `ConfigError` for an impossible name, or for an `OSError` while the output's folder is examined."""
    if not output.name or "\0" in str(output):
        raise unwritable(output, "it is not the name of a file")
    try:
        yield
    except OSError as error:
        raise unwritable(output, error.strerror or str(error)) from None


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(output.name + suffix)


def _bases(output: Path) -> list[Path]:
    """Return the output's path as it was given and, for a symbolic link, the path of its target."""
    named = Path(os.path.realpath(output.absolute().parent), output.name)
    return list(dict.fromkeys((named, _resolved(output))))


def _resolved(path: Path) -> Path:
    # Path.resolve raises RuntimeError for a cycle of links.
    return Path(os.path.realpath(path))


def _claims(output: Path, path: Path) -> bool:
    """Return True if a run into ``output`` may write a file of that name. ``path`` is resolved."""
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
    """Return the existing files under the names of a run, with links replaced by their targets."""
    files = set(written_paths(output))
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
    # A rename needs permission for the folder alone, but a file is write-protected on purpose.
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise unwritable(output, "no permission")


def _check_file(output: Path, path: Path) -> None:
    """Raise for a device, a pipe or a folder in a file's place, and for a temporary file that is a link."""
    if path.suffix in (PARTIAL, ORDERED, REBUILT, _NEW) and path.is_symlink():
        raise unwritable(output, f"{path} is a symbolic link, and a run keeps its unfinished rows there: remove it")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        link = f"links to {_resolved(path)}, which " if path.is_symlink() else ""
        raise unwritable(output, f"{path} {link}is not a regular file")


def _require_no_other_job(output: Path) -> None:
    """Raise if the output has the name of another job's file; a journal shows that there is another job."""
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
    # The limit is a property of the file system, so the nearest folder that exists knows it.
    existing = next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
    try:
        return os.pathconf(existing, "PC_NAME_MAX")
    # The system has no such call, or the file system does not know.
    except (AttributeError, OSError, ValueError):
        return 255

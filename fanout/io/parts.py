"""The folder of a run's parts, beside its output: the manifest, the driver's orders, and the files of each attempt.

The manifest says which attempts count. An attempt that is not in it is fenced: a worker that was thought dead may go on
writing its files, and nothing reads them.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from zlib import crc32

import orjson

from fanout.errors import ConfigError
from fanout.files import PRIVATE, START_FRESH, make_folder, whole_file
from fanout.io.journal.format import read_state
from fanout.io.journal.state import JournalState, Spending, Spent
from fanout.paths import journal_path, parts_folder
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Ranges: TypeAlias = list[tuple[int, int]]
"""Start and stop of ranges of rows."""

StopOrder: TypeAlias = Literal["drain", "cut"]

_FORMAT = 1
_KEY = "output.path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The parts of a run that count.

    Attributes:
        run: a random name of the driver's process.
        fanout: version of the package.
        identity: input, codec and path of the URL, as in the journal of the output.
        n_rows: rows of the run.
        rows: start and stop of the rows of the input that the run sends; None for the end.
        attempts: number of each attempt that counts -> its rows, numbered from the first row of the run.
        last: the highest number that was given to an attempt.
    """

    run: str
    fanout: str
    identity: Mapping[str, Any]
    n_rows: int
    rows: tuple[int | None, int | None]
    attempts: dict[int, Ranges] = field(default_factory=dict)
    last: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """The driver's orders to its workers, which they read every half second.

    Attributes:
        run: as in the manifest.
        beat: grows for as long as the driver lives.
        stop: finish the requests in flight (``"drain"``), or abandon them (``"cut"``).
        active: the attempts that may go on.
        handing_over: attempts that finish their requests in flight and end, because other workers are idle.
        last: the highest number of an attempt that the orders know. A worker may begin before they have its attempt.
    """

    run: str
    beat: int = 0
    stop: StopOrder | None = None
    active: Sequence[int] = ()
    handing_over: Sequence[int] = ()
    last: int = 0

    def fences(self, run: str, attempt: int) -> bool:
        """Return True if an attempt of ``run`` has to stop, because its rows are given to another one."""
        return self.run != run or (attempt <= self.last and attempt not in self.active)


class PartsFolder:
    """The files of a run's parts.

    Args:
        output: the output of the run.
    """

    def __init__(self, output: Path) -> None:
        self.path = parts_folder(output)

    def part(self, attempt: int) -> Path:
        """Return the path of an attempt's part; its journal and its spool have names that begin with it."""
        return self.path / f"{attempt:06d}.part"

    def read_manifest(self) -> Manifest | None:
        """Return the manifest; None without one. Raises `ConfigError` if it is damaged."""
        try:
            document = orjson.loads(self._manifest.read_bytes())
            data = document["manifest"]
            if document["format"] != _FORMAT or document["checksum"] != _checksum(data):
                raise ValueError("another release of fanout wrote it, or its checksum is wrong")
            attempts = {int(number): [(a, b) for a, b in ranges] for number, ranges in data["attempts"].items()}
            return Manifest(**{**data, "attempts": attempts, "rows": tuple(data["rows"])})
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{self._manifest} cannot be read: {error.strerror}", key=_KEY) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._manifest} is damaged: {error}; {START_FRESH}", key=_KEY) from None

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest durably. Raises `OSError`."""
        make_folder(self.path)
        # As it will be read: the checksum is that of texts and lists, whatever tuples and numbers it is made of.
        data = orjson.loads(orjson.dumps(asdict(manifest), option=orjson.OPT_NON_STR_KEYS))
        _replace(self._manifest, {"format": _FORMAT, "checksum": _checksum(data), "manifest": data}, durable=True)

    def read_orders(self) -> Orders | None:
        """Return the driver's orders; None if there are none that can be read."""
        document = _read(self.path / "orders.json")
        return None if document is None else Orders(**document)

    def write_orders(self, orders: Orders) -> None:
        """Replace the orders. Raises `OSError`."""
        _replace(self.path / "orders.json", asdict(orders), durable=False)

    def claim(self, attempt: int) -> bool:
        """Return True for the first process that runs an attempt: engines start a task again on their own.

        The file says which process that is.
        """
        try:
            fd = os.open(self.part(attempt).with_suffix(".claim"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE)
        except FileExistsError:
            return False
        with os.fdopen(fd, "w") as file:
            file.write(f"{platform.node()} {os.getpid()}\n")
        return True

    def is_claimed(self, attempt: int) -> bool:
        """Return True once a process runs, or has run, an attempt."""
        return self.part(attempt).with_suffix(".claim").exists()

    def read_progress(self, attempt: int) -> dict[str, Any] | None:
        """Return the measurements that an attempt has published last; None without any."""
        return _read(self.part(attempt).with_suffix(".progress"))

    def write_progress(self, attempt: int, measurements: Mapping[str, Any]) -> None:
        """Publish the measurements of an attempt. Raises `OSError`."""
        _replace(self.part(attempt).with_suffix(".progress"), measurements, durable=False)

    def remove_part(self, attempt: int) -> None:
        """Remove the files of an attempt, whose rows are in the journal of the output."""
        for path in self.path.glob(f"{self.part(attempt).stem}.*"):
            # The claim stays: the engine may start the task again.
            if path.suffix != ".claim":
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all parts; the manifest first, so that half of the others do not count."""
        self._manifest.unlink(missing_ok=True)
        # A worker that was thought dead may still write here.
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def _manifest(self) -> Path:
        return self.path / "manifest.json"


def add_parts(state: JournalState | None, folder: PartsFolder, manifest: Manifest) -> JournalState:
    """Return the state of a run with the rows in its parts, which are not in the journal of its output yet.

    Raises `OSError`, and `ValueError` for a journal that is damaged.
    """
    whole = JournalState(manifest.identity, n_rows=manifest.n_rows) if state is None else state
    for number, ranges in manifest.attempts.items():
        part = read_state(journal_path(folder.part(number)))
        if part is None:
            continue
        wanted = RowSet(ranges)
        for start, stop in part.resolved:
            for a, b in list(whole.resolved.gaps(start, stop)):
                # An attempt whose rows were given to others may have finished some of them: only its own count.
                if wanted.gap(a, b) is None:
                    whole.resolved.add(a, b)
                    whole.failures += (one for one in part.failures if a <= one.start and one.stop <= b)
        # What an attempt may have spent before it was killed counts as spent.
        whole.spending = Spending(added(whole.charged, part.charged))
    return whole


def added(spent: Spent | None, more: Spent | None) -> Spent | None:
    """Return the sum of two spendings; None stands for one that was not counted."""
    if spent is None or more is None:
        return more if spent is None else spent
    sums = (spent.cost + more.cost, spent.tokens + more.tokens, spent.estimated + more.estimated)
    return Spent(*sums, spent.is_known and more.is_known)


def _checksum(data: object) -> int:
    return crc32(orjson.dumps(data, option=orjson.OPT_SORT_KEYS))


def _read(path: Path) -> dict[str, Any] | None:
    # Some network file systems show a file that is being replaced as missing.
    try:
        document: dict[str, Any] = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document


def _replace(path: Path, document: object, *, durable: bool) -> None:
    with whole_file(path, mode=PRIVATE, durable=durable) as file:
        file.append(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))

"""A journal as it is read: the state of its run, and the digests of the rows that were sent."""

from __future__ import annotations

import stat
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from fanout.files import Publication
from fanout.io.journal.payloads import SEPARATOR, VERSION
from fanout.io.journal.records import MAGIC, Damaged, RecordReader
from fanout.io.journal.state import JournalState, RecordedJob, Spending, Spent
from fanout.io.row_digests import BLAKE2B, DIGEST_BYTES, METHOD, METHODS
from fanout.results import Failure
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fanout.types import Array


class LoadedJournal(NamedTuple):
    """A journal as it was read.

    Attributes:
        number: number of whole records.
        size: their bytes; the rest of the file is a torn end.
        method: name of the method of the rows' digests.
        successor: the files that take their names together with the journal that replaces this one.
    """

    state: JournalState
    number: int
    size: int
    method: str = METHOD
    successor: Publication | None = None


def read_state(path: Path) -> JournalState | None:
    """Return the state in the journal at ``path``; None if there is none, or no whole record.

    Raises:
        Damaged: it is damaged otherwise than by a torn end.
        OSError: it cannot be read.
    """
    loaded = load_journal(path)
    return None if loaded is None else loaded.state


def load_journal(path: Path) -> LoadedJournal | None:
    """Read a journal as `read_state` does, with the position for the next record."""
    try:
        # Opening a pipe waits for its writer, and a device may have no end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise Damaged("it is not a regular file")
        with path.open("rb") as file:
            return _read(file, path.parent)
    except FileNotFoundError:
        return None


def _read(file: IO[bytes], folder: Path) -> LoadedJournal | None:
    state: JournalState | None = None
    method, successor = METHOD, None
    reader = RecordReader(file)
    for payload in reader:
        document, _ = _parse(payload)
        if state is None:
            state, method = _first_state(document), _method(document)
            continue
        state = _with_record(state, document, folder)
        if "successor" in document:
            successor = Publication.from_json(document["successor"], folder)
    if state is not None:
        return LoadedJournal(state, reader.number, reader.size, method, successor)
    file.seek(0)
    start = file.read(len(MAGIC))
    # A torn first record is an empty journal, but another file under this name must not be overwritten.
    if start != MAGIC[: len(start)]:
        raise Damaged("it does not begin as a journal does")
    return None


def _first_state(document: Mapping[str, Any]) -> JournalState:
    """Return the state in the first record."""
    if document["fanout"] != VERSION:
        raise Damaged(f"another release of fanout wrote it (format {document['fanout']}, this one reads {VERSION})")
    replaced = tuple(map(str, document.get("replaced", ())))
    state = JournalState(document["identity"], n_rows=document.get("n_rows"), replaced=replaced)
    _read_spending(state, document)
    return state


def _method(document: Mapping[str, Any]) -> str:
    method = str(document.get("method", BLAKE2B))
    if method not in METHODS:
        raise Damaged(f"a later release of fanout wrote it (digests by {method})")
    return method


def _parse(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a record's JSON and its digests."""
    text, _, digests = payload.partition(SEPARATOR)
    return orjson.loads(text), digests


def _with_record(state: JournalState, document: Mapping[str, Any], folder: Path) -> JournalState:
    # Unknown keys are ignored, so that a later release can add some.
    if "retry" in document:
        state = state.retry(document["retry"])
    if "identity" in document:
        state.identity = document["identity"]
    # A record may have rows, a note and a schema at once: they are of one group.
    for start, stop in document.get("rows", ()):
        state.resolved.add(start, stop)
    state.failures += (Failure(**{**one, "ids": tuple(one["ids"])}) for one in document.get("failures", ()))
    if "note" in document:
        state.notes.append(document["note"])
    if "schema" in document:
        state.schema = {name: (_dtype(dtype), tuple(shape)) for name, (dtype, shape) in document["schema"].items()}
    state.n_rows = document.get("n_rows", state.n_rows)
    _read_spending(state, document)
    if "job" in document:
        start, stop, *job = document["job"]
        state.jobs.pop((start, stop), None)  # the last job of some rows is the last entry
        state.jobs[start, stop] = RecordedJob(*job)
    if "publication" in document:
        # A complete run whose output is written again has a second one, which has to be carried out too.
        state.publication, state.complete = Publication.from_json(document["publication"], folder), False
    if document.get("complete"):
        state.complete, state.complete_run = True, None
    return state


def _read_spending(state: JournalState, document: Mapping[str, Any]) -> None:
    if "spent" in document:
        allowed = tuple(document["allowed"]) if "allowed" in document else None
        state.spending = Spending(Spent(*document["spent"]), allowed)


class SentDigests(NamedTuple):
    """Digests of rows that were sent.

    Attributes:
        digests: shape (rows, 2), uint64; zeros for rows without one.
        known: rows that have one.
        method: name of their method.
    """

    digests: Array
    known: RowSet
    method: str = METHOD


class DigestReader:
    """Iterates over start, stop and digests of rows in a journal, in the order of the records; the last one counts.

    Attributes:
        method: name of their method, once the iteration has begun.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.method = METHOD

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        with self._path.open("rb") as file:
            for number, payload in enumerate(RecordReader(file)):
                document, digests = _parse(payload)
                if not number:
                    self.method = _method(document)
                at = 0
                for start, stop in (document.get("digests") or document["rows"]) if digests else ():
                    yield start, stop, digests[at : at + (stop - start) * DIGEST_BYTES]
                    at += (stop - start) * DIGEST_BYTES


def read_sent(path: Path, resolved: RowSet) -> SentDigests:
    """Return the digests in a journal of rows up to the last resolved one."""
    end = max((stop for _, stop in resolved), default=0)
    digests, known, reader = np.zeros((end, 2), np.uint64), RowSet(), DigestReader(path)
    for start, stop, data in reader:
        # Rows beyond the end were sent by a process that was killed before their commit.
        if stop <= end:
            digests[start:stop] = np.frombuffer(data, "<u8").reshape(-1, 2)
            known.add(start, stop)
    return SentDigests(digests, known, reader.method)


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtypes.StringDType() if name == "str" else np.dtype(name)

"""The records of a journal: a line of JSON, and behind it the digests of rows; how they are written, and read again."""

from __future__ import annotations

import stat
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import orjson

from fanout._escape import safe_json
from fanout.files import Publication
from fanout.io.block_format import schema_as_json, schema_from_json
from fanout.io.journal.records import MAGIC, Damaged, RecordReader
from fanout.io.journal.state import JournalState, RecordedJob, Spending, Spent
from fanout.io.row_digests import BLAKE2B, METHOD, METHODS
from fanout.results import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fanout.rows import RowSet
    from fanout.types import Schema

VERSION = 3

# Separates the JSON of a record from the digests after it: a line of JSON has no line break in it.
SEPARATOR = b"\n"

DIGESTS_PER_RECORD = 2**17
"""The digests of more rows are written in several records, so that a torn one has a bounded length."""


def state_payloads(
    state: JournalState, notes: Sequence[Any], method: str, digests: Iterable[tuple[int, int, bytes]], folder: Path
) -> Iterator[bytes]:
    """Yield the records of a new journal in ``folder`` with the given state, notes and digests of rows.

    ``method`` is the name of the digests' method.
    """
    yield head_payload(state, method)
    # Each note gets a record, because all of them together may be long.
    for note in notes:
        yield group_payload((), note=note)
    for start, stop, data in digests:
        yield digests_payload(start, stop, data)
    yield group_payload(state.resolved, state.failures, schema=state.schema)
    for (start, stop), job in state.jobs.items():
        yield job_payload(start, stop, job)
    if state.complete and state.publication is not None:
        yield end_payload(state.n_rows or 0, state.publication, folder)
        yield COMPLETE


def head_payload(state: JournalState, method: str) -> bytes:
    """Return the first record of a journal, whose rows have digests of ``method``."""
    # The first key identifies the file and its format.
    head: dict[str, Any] = {"fanout": VERSION, "identity": state.identity, "n_rows": state.n_rows, "method": method}
    if state.replaced:
        head["replaced"] = state.replaced
    return safe_json(head | _as_json(state.spending))


def group_payload(
    rows: Iterable[tuple[int, int]],
    failures: Iterable[Failure] = (),
    note: Any = None,
    schema: Schema | None = None,
    digests: bytes = b"",
    spending: Spending | None = None,
) -> bytes:
    """Return the record of rows that are resolved from now on; ``digests`` are those of all of them."""
    document: dict[str, Any] = {"rows": [list(pair) for pair in rows], **_as_json(spending)}
    if failed := [asdict(failure) for failure in failures]:
        document["failures"] = failed
    if note is not None:
        document["note"] = note
    if schema is not None:
        document["schema"] = schema_as_json(schema)
    text = safe_json(document, orjson.OPT_SERIALIZE_NUMPY)
    return text + SEPARATOR + digests if digests else text


def spending_payload(spending: Spending) -> bytes:
    """Return the record of the spending so far, and of the sum that may be spent before the next record."""
    return orjson.dumps(_as_json(spending))


def job_payload(start: int, stop: int, job: RecordedJob) -> bytes:
    """Return the record of a job that was started for some rows."""
    return safe_json({"job": [start, stop, *job]})


def _as_json(spending: Spending | None) -> dict[str, Any]:
    if spending is None or spending.spent is None:
        return {}
    allowed = {} if spending.allowed is None else {"allowed": list(spending.allowed)}
    return {"spent": list(spending.spent)} | allowed


def digests_payload(start: int, stop: int, digests: bytes) -> bytes:
    """Return a record of digests alone."""
    return orjson.dumps({"digests": [[start, stop]]}) + SEPARATOR + digests


def retry_payload(notes: Sequence[Any], identity: Mapping[str, Any]) -> bytes:
    """Return the record that the failed rows are sent again.

    ``notes`` are the sink's, of the other rows. ``identity`` is that of the input now, in which failed rows may have
    been corrected.
    """
    return safe_json({"retry": list(notes), "identity": identity}, orjson.OPT_SERIALIZE_NUMPY)


def successor_payload(files: Publication, folder: Path) -> bytes:
    """Return the record that a new journal, which is whole, replaces this one, and ``files`` take their names."""
    return safe_json({"successor": files.as_json(folder)})


def identity_payload(identity: Mapping[str, Any]) -> bytes:
    """Return the record of another identity for the same run: its input was only touched."""
    return safe_json({"identity": identity})


def end_payload(n_rows: int, publication: Publication, folder: Path) -> bytes:
    """Return the record that all rows are done and the files are whole."""
    return safe_json({"n_rows": n_rows, "publication": publication.as_json(folder)})


COMPLETE = safe_json({"complete": True})
"""The record that the files have their names."""


def digest_pieces(rows: RowSet) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows in pieces whose digests fit a record."""
    for start, stop in rows:
        for at in range(start, stop, DIGESTS_PER_RECORD):
            yield at, min(at + DIGESTS_PER_RECORD, stop)


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
        document, _ = parse(payload)
        if state is None:
            state, method = _first_state(document), method_of(document)
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


def method_of(document: Mapping[str, Any]) -> str:
    method = str(document.get("method", BLAKE2B))
    if method not in METHODS:
        raise Damaged(f"a later release of fanout wrote it (digests by {method})")
    return method


def parse(payload: bytes) -> tuple[dict[str, Any], bytes]:
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
        state.schema = schema_from_json(document["schema"])
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

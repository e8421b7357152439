"""The records of a journal: a line of JSON, and behind it the digests of rows; how they are written, and read again."""

from __future__ import annotations

import stat
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import orjson

from fanout._escape import safe_json
from fanout.io.block_format import schema_as_json, schema_from_json
from fanout.io.journal.records import MAGIC, Damaged, RecordReader
from fanout.io.journal.state import JournalState, RecordedJob, Spending, Spent
from fanout.io.publication import Publication
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


def payload(document: Mapping[str, Any], digests: bytes = b"") -> bytes:
    """Return the payload of a record: JSON with keys of the following groups, and ``digests`` behind it.

    - The first record: ``fanout`` (`VERSION`), ``identity`` of the run, ``n_rows``, ``method`` of the digests,
      ``replaced`` files of earlier runs.
    - Rows that are resolved from now on: ``rows`` with ``failures``, the sink's ``note``, the ``schema``, and digests
      of all of them; or ``digests`` alone, for rows that a later record resolves.
    - ``spent`` so far, and the sum ``allowed`` before the next record.
    - A ``job`` that an asynchronous API was given: start, stop, `RecordedJob`.
    - ``identity`` alone: the input was only touched.
    - ``retry``: failed rows are sent again; the sink's notes of the other rows, and the ``identity`` of the input now.
    - ``successor``: a new journal, which is whole, replaces this one, and these files take their names.
    - ``publication`` with ``n_rows``: all rows are done, and the files are whole; ``complete``: they have their names.
    """
    text = safe_json(document, orjson.OPT_SERIALIZE_NUMPY)
    return text + SEPARATOR + digests if digests else text


def state_payloads(
    state: JournalState, notes: Sequence[Any], method: str, digests: Iterable[tuple[int, int, bytes]], folder: Path
) -> Iterator[bytes]:
    """Yield the records of a new journal in ``folder`` with the given state, notes and digests of rows.

    ``method`` is the name of the digests' method.
    """
    yield head_payload(state, method)
    # Each note gets a record, because all of them together may be long.
    for note in notes:
        yield payload({"rows": [], "note": note})
    for start, stop, data in digests:
        yield payload({"digests": [[start, stop]]}, data)
    yield payload(group(state.resolved, state.failures, schema=state.schema))
    yield from job_payloads(state)
    if state.complete and state.publication is not None:
        yield payload({"n_rows": state.n_rows or 0, "publication": state.publication.as_json(folder)})
        yield payload({"complete": True})


def head_payload(state: JournalState, method: str) -> bytes:
    """Return the first record of a journal, whose rows have digests of ``method``."""
    # The first key identifies the file and its format.
    head: dict[str, Any] = {"fanout": VERSION, "identity": state.identity, "n_rows": state.n_rows, "method": method}
    if state.replaced:
        head["replaced"] = state.replaced
    return payload(head | spending_as_json(state.spending))


def job_payloads(state: JournalState) -> Iterator[bytes]:
    """Yield the records of all jobs."""
    for (start, stop), job in state.jobs.items():
        yield payload({"job": [start, stop, *job]})


def group(
    rows: Iterable[tuple[int, int]], failures: Iterable[Failure], note: Any = None, schema: Schema | None = None
) -> dict[str, Any]:
    """Return the keys of a record of rows that are resolved from now on."""
    document: dict[str, Any] = {"rows": [list(pair) for pair in rows]}
    if failed := [asdict(failure) for failure in failures]:
        document["failures"] = failed
    if note is not None:
        document["note"] = note
    if schema is not None:
        document["schema"] = schema_as_json(schema)
    return document


def spending_as_json(spending: Spending) -> dict[str, Any]:
    """Return the keys of a record for the spending; none if it was never counted."""
    if spending.spent is None:
        return {}
    allowed = {} if spending.allowed is None else {"allowed": list(spending.allowed)}
    return {"spent": list(spending.spent)} | allowed


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

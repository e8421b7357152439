"""The state of a run, as its journal records it, and the records as JSON."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from fanout._escape import safe_json
from fanout.files import Publication
from fanout.io.fingerprint import DIGEST_BYTES
from fanout.io.journal.records import MAGIC, Damaged, RecordReader
from fanout.results import Failure
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fanout.types import Array, Schema

VERSION = 3

# Separates the JSON of a record from the digests after it: a line of JSON has no line break in it.
_SEPARATOR = b"\n"

DIGESTS_PER_RECORD = 2**17
"""The digests of more rows are written in several records, so that a torn one has a bounded length."""


class Spent(NamedTuple):
    """The spending of a run, of all its processes so far.

    Attributes:
        cost: in the currency of the prices at that time.
        tokens: input and output tokens.
        estimated: part of the cost that is estimated.
        is_known: False if the cost has parts whose usage or price is unknown.
    """

    cost: float = 0.0
    tokens: float = 0.0
    estimated: float = 0.0
    is_known: bool = True


class RecordedJob(NamedTuple):
    """The job that an asynchronous API was given for some rows.

    Attributes:
        url: where its state is.
        digest: of the content of its rows; empty in journals that were written before there were any.
    """

    url: str
    digest: str = ""


@dataclass(slots=True)
class JournalState:
    """The sum of a journal's records.

    Attributes:
        identity: input, codec and path of the URL, which identify the run.
        resolved: rows that are answered or have failed.
        schema: dtypes and shapes of the outputs; None before the first answer.
        notes: the sink's notes, in order.
        n_rows: rows of the whole input; None until they are known.
        publication: the files that are whole, once all rows are done.
        replaced: files of earlier runs into the same output, relative to the journal's folder. The publication removes
            those that this run does not replace.
        complete: the files have their final names.
        complete_run: the complete run whose failed rows alone are sent again. Its output stays until that has ended.
        successor: the files that take their names together with the journal that replaces this one.
        spent: the spending of the run; None if it was never counted.
        allowed: cost and tokens that the process may have spent before its next record; None if it has ended.
        jobs: start and stop of rows -> the job that an asynchronous API was given for them. Some may be done.
    """

    identity: Mapping[str, Any]
    resolved: RowSet = field(default_factory=RowSet)
    failures: list[Failure] = field(default_factory=list)
    schema: Schema | None = None
    notes: list[Any] = field(default_factory=list)
    n_rows: int | None = None
    publication: Publication | None = None
    replaced: tuple[str, ...] = ()
    complete: bool = False
    complete_run: JournalState | None = None
    successor: Publication | None = None
    spent: Spent | None = None
    allowed: tuple[float, float] | None = None
    jobs: dict[tuple[int, int], RecordedJob] = field(default_factory=dict)

    @property
    def charged(self) -> Spent | None:
        """The spending, with all that a process may have spent that was killed."""
        if self.spent is None or self.allowed is None:
            return self.spent
        cost, tokens = map(max, self.allowed, self.spent)
        return self.spent._replace(cost=cost, tokens=tokens, estimated=self.spent.estimated + cost - self.spent.cost)

    @property
    def ok(self) -> RowSet:
        """Rows that have an answer."""
        rows = RowSet(self.resolved)
        for failure in self.failures:
            rows.remove(failure.start, failure.stop)
        return rows

    @property
    def layout(self) -> Mapping[str, Any] | None:
        """The columns of the published output, for a sink that reads its answers back."""
        return None if self.publication is None else self.publication.layout

    @property
    def failed(self) -> int:
        """Number of failed rows."""
        return sum(failure.n_rows for failure in self.failures)

    @property
    def is_retry(self) -> bool:
        """True while the failed rows of a complete run are sent again; to others that run is still complete."""
        return self.complete_run is not None and self.publication is None

    @property
    def in_place(self) -> JournalState:
        """The run whose output is in place: while failed rows are sent again, the complete one before."""
        return self.complete_run if self.is_retry and self.complete_run is not None else self

    def files(self, folder: Path) -> tuple[str, ...]:
        """Return all files in place, of this run and of those before it, relative to ``folder``."""
        moves = self.publication.moves if self.publication else ()
        return tuple(dict.fromkeys((*self.replaced, *(os.path.relpath(target, folder) for _, target in moves))))

    def retry(self, notes: Sequence[Any]) -> JournalState:
        """Return the state in which only the failed rows of this complete run are left."""
        return JournalState(
            self.identity,
            self.ok,
            schema=self.schema,
            notes=list(notes),
            n_rows=self.n_rows,
            complete_run=self,
            spent=self.charged,
        )


class LoadedJournal(NamedTuple):
    """A journal as it was read.

    Attributes:
        number: number of whole records.
        size: their bytes; the rest of the file is a torn end.
    """

    state: JournalState
    number: int
    size: int


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
    reader = RecordReader(file)
    for payload in reader:
        document, _ = _parse(payload)
        if state is not None:
            state = _with_record(state, document, folder)
            continue
        if document["fanout"] != VERSION:
            raise Damaged(f"another release of fanout wrote it (format {document['fanout']}, this one reads {VERSION})")
        replaced = tuple(map(str, document.get("replaced", ())))
        state = JournalState(document["identity"], n_rows=document.get("n_rows"), replaced=replaced)
        _read_spending(state, document)
    if state is not None:
        return LoadedJournal(state, reader.number, reader.size)
    file.seek(0)
    start = file.read(len(MAGIC))
    # A torn first record is an empty journal, but another file under this name must not be overwritten.
    if start != MAGIC[: len(start)]:
        raise Damaged("it does not begin as a journal does")
    return None


def _parse(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a record's JSON and its digests."""
    text, _, digests = payload.partition(_SEPARATOR)
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
    if "successor" in document:
        state.successor = Publication.from_json(document["successor"], folder)
    if document.get("complete"):
        state.complete, state.complete_run = True, None
    return state


def _read_spending(state: JournalState, document: Mapping[str, Any]) -> None:
    if "spent" in document:
        state.spent = Spent(*document["spent"])
        state.allowed = tuple(document["allowed"]) if "allowed" in document else None


def state_payloads(
    state: JournalState, notes: Sequence[Any], digests: Iterable[tuple[int, int, bytes]], folder: Path
) -> Iterator[bytes]:
    """Yield the records of a new journal in ``folder`` with the given state, notes and digests of rows."""
    yield head_payload(state)
    # Each note gets a record, because all of them together may be long.
    for note in notes:
        yield group_payload((), note=note)
    for start, stop, data in digests:
        yield digests_payload(start, stop, data)
    yield group_payload(state.resolved, state.failures, schema=state.schema)
    if state.complete and state.publication is not None:
        yield end_payload(state.n_rows or 0, state.publication, folder)
        yield COMPLETE


def head_payload(state: JournalState) -> bytes:
    """Return the first record of a journal."""
    # The first key identifies the file and its format.
    head: dict[str, Any] = {"fanout": VERSION, "identity": state.identity, "n_rows": state.n_rows}
    if state.replaced:
        head["replaced"] = state.replaced
    return safe_json(head | _spending(state.spent, state.allowed))


def group_payload(
    rows: Iterable[tuple[int, int]],
    failures: Iterable[Failure] = (),
    note: Any = None,
    schema: Schema | None = None,
    digests: bytes = b"",
    spent: Spent | None = None,
    allowed: tuple[float, float] | None = None,
) -> bytes:
    """Return the record of rows that are resolved from now on; ``digests`` are those of all of them."""
    document: dict[str, Any] = {"rows": [list(pair) for pair in rows], **_spending(spent, allowed)}
    if failed := [asdict(failure) for failure in failures]:
        document["failures"] = failed
    if note is not None:
        document["note"] = note
    if schema is not None:
        document["schema"] = {name: [_dtype_name(dtype), list(shape)] for name, (dtype, shape) in schema.items()}
    text = safe_json(document, orjson.OPT_SERIALIZE_NUMPY)
    return text + _SEPARATOR + digests if digests else text


def spending_payload(spent: Spent, allowed: tuple[float, float] | None) -> bytes:
    """Return the record of the spending so far, and of the sum that may be spent before the next record."""
    return orjson.dumps(_spending(spent, allowed))


def job_payload(start: int, stop: int, job: RecordedJob) -> bytes:
    """Return the record of a job that was started for some rows."""
    return safe_json({"job": [start, stop, *job]})


def _spending(spent: Spent | None, allowed: tuple[float, float] | None) -> dict[str, Any]:
    if spent is None:
        return {}
    return {"spent": list(spent)} | ({} if allowed is None else {"allowed": list(allowed)})


def digests_payload(start: int, stop: int, digests: bytes) -> bytes:
    """Return a record of digests alone."""
    return orjson.dumps({"digests": [[start, stop]]}) + _SEPARATOR + digests


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


class SentDigests(NamedTuple):
    """Digests of rows that were sent.

    Attributes:
        digests: shape (rows, 2), uint64; zeros for rows without one.
        known: rows that have one.
    """

    digests: Array
    known: RowSet


def read_digests(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield start, stop and digests of rows in the order of the records; the last digest of a row counts."""
    with path.open("rb") as file:
        for payload in RecordReader(file):
            document, digests = _parse(payload)
            at = 0
            for start, stop in (document.get("digests") or document["rows"]) if digests else ():
                yield start, stop, digests[at : at + (stop - start) * DIGEST_BYTES]
                at += (stop - start) * DIGEST_BYTES


def read_sent(path: Path, resolved: RowSet) -> SentDigests:
    """Return the digests in a journal of rows up to the last resolved one."""
    end = max((stop for _, stop in resolved), default=0)
    digests, known = np.zeros((end, 2), np.uint64), RowSet()
    for start, stop, data in read_digests(path):
        # Rows beyond the end were sent by a process that was killed before their commit.
        if stop <= end:
            digests[start:stop] = np.frombuffer(data, "<u8").reshape(-1, 2)
            known.add(start, stop)
    return SentDigests(digests, known)


def digest_pieces(rows: RowSet) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows in pieces whose digests fit a record."""
    for start, stop in rows:
        for at in range(start, stop, DIGESTS_PER_RECORD):
            yield at, min(at + DIGESTS_PER_RECORD, stop)


def _dtype_name(dtype: np.dtype[Any]) -> str:
    # StringDType has no name that numpy reads back.
    return "str" if dtype.kind == "T" else dtype.str


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtypes.StringDType() if name == "str" else np.dtype(name)

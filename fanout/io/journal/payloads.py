"""The records of a journal as they are written: a line of JSON, and behind it the digests of rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson

from fanout._escape import safe_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from fanout.files import Publication
    from fanout.io.journal.state import JournalState, RecordedJob, Spending
    from fanout.results import Failure
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
        document["schema"] = {name: [_dtype_name(dtype), list(shape)] for name, (dtype, shape) in schema.items()}
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


def _dtype_name(dtype: np.dtype[Any]) -> str:
    # StringDType has no name that numpy reads back.
    return "str" if dtype.kind == "T" else dtype.str

"""The state of a run, as its journal has it: its identity, the rows that are done or have failed, its output."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout._escape import safe_json
from fanout.files import Publication
from fanout.io.journal.records import MAGIC, Damaged, Reader
from fanout.rowset import RowSet
from fanout.types import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fanout.types import Schema

VERSION = 2
DIGEST_BYTES = 16
"""Bytes of the digest of a row."""

_SEPARATOR = b"\n"


@dataclass(slots=True)
class State:
    """The sum of a journal's records."""

    identity: Mapping[str, Any]
    """What the run is of: input, codec, path of the URL."""

    resolved: RowSet = field(default_factory=RowSet)
    """Rows that are answered or have failed."""

    failures: list[Failure] = field(default_factory=list)
    schema: Schema | None = None
    """What the answers look like; None before the first."""

    notes: list[Any] = field(default_factory=list)
    """What the sink noted, in order."""

    n_rows: int | None = None
    """Rows of the whole input, once they are known."""

    publication: Publication | None = None
    """The files that are whole, once all rows are done."""

    replaced: tuple[str, ...] = ()
    """Files of earlier runs into the same output, from the journal's folder: they go where this run has none such."""

    complete: bool = False
    """The files have their final names."""

    before: State | None = None
    """The complete run whose failed rows alone are sent again. Its output is in place until these have been."""

    successor: Publication | None = None
    """A new journal takes the place of this one, and these files take their names with it."""

    size: int = 0
    """Bytes of the journal that are whole."""

    number: int = 0
    """Number of the next record."""

    def files(self, folder: Path) -> tuple[str, ...]:
        """All files that are in place, of this run and of those before it, from ``folder``."""
        moves = self.publication.moves if self.publication else ()
        return tuple(dict.fromkeys((*self.replaced, *(os.path.relpath(target, folder) for _, target in moves))))

    @property
    def ok(self) -> RowSet:
        """Rows that have an answer."""
        rows = RowSet(self.resolved)
        for failure in self.failures:
            rows.remove(failure.start, failure.stop)
        return rows

    @property
    def failed(self) -> int:
        """The number of rows that have failed."""
        return sum(failure.stop - failure.start for failure in self.failures)


def read_state(path: Path) -> State | None:
    """What the journal at ``path`` tells; None where there is none, or where it was torn before it told anything.

    Raises:
        Damaged: it cannot be believed.
        OSError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe keeps who opens it waiting, and a device may have no end
            raise Damaged("it is not a regular file")
        with path.open("rb") as file:
            return _read(Reader(file), file, path.parent)
    except FileNotFoundError:
        return None


def _read(reader: Reader, file: IO[bytes], folder: Path) -> State | None:
    state: State | None = None
    for payload in reader:
        told, _ = _split(payload)
        if state is not None:
            state = _added(state, told, folder)
            continue
        if told["fanout"] != VERSION:
            raise Damaged(f"another release of fanout wrote it (format {told['fanout']}, this one reads {VERSION})")
        state = State(
            identity=told["identity"], n_rows=told.get("n_rows"), replaced=tuple(map(str, told.get("replaced", ())))
        )
    if state is None:
        file.seek(0)
        start = file.read(len(MAGIC))
        if start != MAGIC[: len(start)]:
            raise Damaged("it does not begin as a journal does")
        return None
    state.size, state.number = reader.size, reader.number
    return state


def read_digests(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Start, stop and digests of rows that were sent, in the order of the records; the last one of a row counts."""
    with path.open("rb") as file:
        for payload in Reader(file):
            told, digests = _split(payload)
            at = 0
            for start, stop in (told.get("sent") or told["rows"]) if digests else ():
                yield start, stop, digests[at : at + (stop - start) * DIGEST_BYTES]
                at += (stop - start) * DIGEST_BYTES


def head_payload(state: State) -> bytes:
    """The first record of a journal."""
    head = {"fanout": VERSION, "identity": state.identity, "n_rows": state.n_rows}
    return safe_json({**head, "replaced": state.replaced} if state.replaced else head)


def group_payload(
    rows: Iterable[tuple[int, int]],
    failures: Iterable[Failure] = (),
    note: Any = None,
    schema: Schema | None = None,
    digests: bytes = b"",
) -> bytes:
    """Rows that are resolved from now on, with what is to be known of them; ``digests`` are those of all of them."""
    told: dict[str, Any] = {"rows": [list(pair) for pair in rows]}
    if listed := [asdict(failure) for failure in failures]:
        told["failures"] = listed
    if note is not None:
        told["note"] = note
    if schema is not None:
        told["form"] = {name: [_dtype_name(dtype), list(shape)] for name, (dtype, shape) in schema.items()}
    text = safe_json(told, orjson.OPT_SERIALIZE_NUMPY)
    return text + _SEPARATOR + digests if digests else text


def sent_payload(start: int, stop: int, digests: bytes) -> bytes:
    """The digests of some rows alone."""
    return orjson.dumps({"sent": [[start, stop]]}) + _SEPARATOR + digests


def again_payload(notes: Sequence[Any]) -> bytes:
    """The rows that have failed are sent again; ``notes`` are the sink's, of the other rows."""
    return safe_json({"again": list(notes)}, orjson.OPT_SERIALIZE_NUMPY)


def successor_payload(files: Publication, folder: Path) -> bytes:
    """A new journal, which is whole, takes the place of this one, and ``files`` take their names with it."""
    return safe_json({"successor": files.as_json(folder)})


def identity_payload(identity: Mapping[str, Any]) -> bytes:
    """The same run by another identity: that of an input of the same content."""
    return safe_json({"identity": identity})


def end_payload(n_rows: int, publication: Publication, folder: Path) -> bytes:
    """All rows are done, and the files are whole."""
    return safe_json({"n_rows": n_rows, "publication": publication.as_json(folder)})


COMPLETE = safe_json({"complete": True})
"""The files have their names."""


def _split(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """What a record tells, and the digests that follow it: a line of JSON has no line break in it."""
    text, _, digests = payload.partition(_SEPARATOR)
    return orjson.loads(text), digests


def _added(state: State, told: Mapping[str, Any], folder: Path) -> State:
    if "again" in told:
        state = State(
            state.identity, state.ok, schema=state.schema, notes=told["again"], n_rows=state.n_rows, before=state
        )
    if "identity" in told:
        state.identity = told["identity"]
    for start, stop in told.get("rows", ()):
        state.resolved.add(start, stop)
    state.failures += (Failure(**{**one, "ids": tuple(one["ids"])}) for one in told.get("failures", ()))
    if "note" in told:
        state.notes.append(told["note"])
    if "form" in told:
        state.schema = {name: (_dtype(dtype), tuple(shape)) for name, (dtype, shape) in told["form"].items()}
    state.n_rows = told.get("n_rows", state.n_rows)
    if "publication" in told:
        state.publication = Publication.from_json(told["publication"], folder)
    if "successor" in told:
        state.successor = Publication.from_json(told["successor"], folder)
    if told.get("complete"):
        state.complete, state.before = True, None
    return state


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "str" if dtype.kind == "T" else dtype.str


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtypes.StringDType() if name == "str" else np.dtype(name)

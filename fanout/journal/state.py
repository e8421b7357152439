"""What a journal tells: of which run it is, which rows are done, which have failed, and if the output is in place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout._escape import safe_json
from fanout.files import Publication
from fanout.journal.records import MAGIC, Damaged, records
from fanout.rowset import RowSet
from fanout.types import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from fanout.types import Form

VERSION = 2


@dataclass(slots=True)
class State:
    """The sum of a journal's records."""

    identity: Mapping[str, Any]
    """What the run is of: input, codec, path of the URL."""

    resolved: RowSet = field(default_factory=RowSet)
    """Rows that are answered or have failed."""

    failures: list[Failure] = field(default_factory=list)
    form: Form | None = None
    """What the answers look like; None before the first."""

    notes: list[Any] = field(default_factory=list)
    """What the sink noted, in order."""

    n_rows: int | None = None
    """Rows of the whole input, once they are known."""

    publication: Publication | None = None
    """The files that are whole, once all rows are done."""

    complete: bool = False
    """The files have their final names."""

    size: int = 0
    """Bytes of the journal that are whole."""

    number: int = 0
    """Number of the next record."""

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
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    payloads, size = records(data)
    if not payloads:
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise Damaged("it does not begin as a journal does")
        return None
    head, *rest = (orjson.loads(payload) for payload in payloads)
    if head["fanout"] != VERSION:
        raise Damaged(f"another release of fanout wrote it (format {head['fanout']}, this one reads {VERSION})")
    state = State(identity=head["identity"], n_rows=head.get("n_rows"), size=size, number=len(payloads))
    for told in rest:
        _add(state, told, path.parent)
    return state


def head_payload(state: State) -> bytes:
    """The first record of a journal."""
    return safe_json({"fanout": VERSION, "identity": state.identity, "n_rows": state.n_rows})


def group_payload(rows: Iterable[tuple[int, int]], failures: Iterable[Failure], note: Any, form: Form | None) -> bytes:
    """Rows that are resolved from now on, with what is to be known of them."""
    told: dict[str, Any] = {"rows": [list(pair) for pair in rows]}
    if listed := [asdict(failure) for failure in failures]:
        told["failures"] = listed
    if note is not None:
        told["note"] = note
    if form is not None:
        told["form"] = {name: [_dtype_name(dtype), list(shape)] for name, (dtype, shape) in form.items()}
    return safe_json(told, orjson.OPT_SERIALIZE_NUMPY)


def end_payload(n_rows: int, publication: Publication, folder: Path) -> bytes:
    """All rows are done, and the files are whole."""
    return safe_json({"n_rows": n_rows, "publication": publication.as_json(folder)})


COMPLETE = safe_json({"complete": True})
"""The files have their names."""


def _add(state: State, told: Mapping[str, Any], folder: Path) -> None:
    for start, stop in told.get("rows", ()):
        state.resolved.add(start, stop)
    state.failures += (Failure(**{**one, "ids": tuple(one["ids"])}) for one in told.get("failures", ()))
    if "note" in told:
        state.notes.append(told["note"])
    if "form" in told:
        state.form = {name: (_dtype(dtype), tuple(shape)) for name, (dtype, shape) in told["form"].items()}
    state.n_rows = told.get("n_rows", state.n_rows)
    if "publication" in told:
        state.publication = Publication.from_json(told["publication"], folder)
    state.complete = told.get("complete", state.complete)


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "str" if dtype.kind == "T" else dtype.str


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtypes.StringDType() if name == "str" else np.dtype(name)

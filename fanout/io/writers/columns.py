"""The columns of an output with names: ids, columns that are kept of the input, answers, and errors."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fanout.options import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fanout.types import Chunk, Failure, Result

ID = "id"
"""Column of the rows' ids."""

VALUE = "value"
"""Column of an output without a name."""

ERROR = "error"
"""Column of the reasons why rows have no answer."""

_NOT_SENT = "no answer: the run was stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The names of an output's columns, in their order: `id`, `kept`, `outputs`, `error`.

    Attributes:
        id: column of the ids; None if the rows have none, or if a kept column of that name takes its place.
        outputs: output -> its column.
        safe: texts are written so that no spreadsheet computes them; see `fanout.open_sink`.
    """

    id: str | None = None
    kept: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    error: str = ERROR
    safe: bool = False

    @property
    def names(self) -> list[str]:
        """All names in order."""
        return [*((self.id,) if self.id else ()), *self.kept, *self.outputs.values(), self.error]

    def as_json(self) -> dict[str, Any]:
        """Return what is needed to read answers back from a published file."""
        return {"id": self.id, "outputs": dict(self.outputs), "safe": self.safe}


def layout_of(
    outputs: Iterable[str],
    rename: Mapping[str, str] | None = None,
    *,
    kept: Sequence[str] = (),
    has_ids: bool = False,
    safe: bool = False,
) -> Layout:
    """Return the columns of an output file.

    Kept columns have the names that they have in the input. Other columns get ``_`` appended if their name is taken.
    ``id`` and ``error`` are reserved even if the rows have no ids: the name of an output must not depend on the input.
    """
    taken = {*kept, ID}
    error = _free(ERROR, taken)
    taken.add(error)
    given = {name: (rename or {}).get(name or VALUE, name) for name in outputs}
    # Names that need no change come first, so that each output keeps its own name if it can.
    columns: dict[str, str] = {}
    for name in sorted(given, key=lambda name: given[name] in taken or not given[name]):
        columns[name] = _free(given[name] or VALUE, taken)
        taken.add(columns[name])
    return Layout(
        id=ID if has_ids and ID not in kept else None,
        kept=tuple(kept),
        outputs={name: columns[name] for name in given},
        error=error,
        safe=safe,
    )


def unknown_output(rename: Mapping[str, str], outputs: Iterable[str]) -> str | None:
    """Describe the first name in ``rename`` that is no output; None if all are."""
    known = [name or VALUE for name in outputs]
    for name in rename:
        if name not in known:
            listed = ", ".join(f'"{one}"' for one in known)
            return f'there is no output "{name}" to rename{did_you_mean(name, known)}; the outputs are {listed}'
    return None


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


class Reasons:
    """The reasons why rows of a run have no answer, by row."""

    def __init__(self, result: Result) -> None:
        absent: list[Failure | Chunk] = [*result.failures, *result.pending]
        self._absent = sorted(absent, key=lambda rows: rows.start)
        self._starts = [rows.start for rows in self._absent]

    def __call__(self, start: int, stop: int) -> list[str | None] | None:
        """Return the reason for each row in ``start <= i < stop``; None if all of them have an answer."""
        reasons: list[str | None] | None = None
        for rows in self._absent[max(0, bisect_right(self._starts, start) - 1) :]:
            if rows.start >= stop:
                break
            first, last = max(rows.start, start), min(rows.stop, stop)
            if first < last:
                reasons = reasons or [None] * (stop - start)
                reason = getattr(rows, "reason", _NOT_SENT)
                reasons[first - start : last - start] = [reason] * (last - first)
        return reasons

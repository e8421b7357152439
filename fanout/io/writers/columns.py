"""The columns of an output with names: ids, columns that are kept of the input, answers, and errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fanout.frames import ERROR, VALUE, answer_columns, free_name
from fanout.options import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


ID = "id"
"""Column of the rows' ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The names of an output's columns, in their order: `id`, `kept`, `outputs`, `error`.

    Attributes:
        id: column of the ids; None if the rows have none, or if a kept column of that name takes its place.
        outputs: output -> its column.
        safe: texts are written so that no spreadsheet computes them; see `fanout.open_sink`.
        has_ids: the rows have ids.
    """

    id: str | None = None
    kept: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    error: str = ERROR
    safe: bool = False
    has_ids: bool = False

    @property
    def names(self) -> list[str]:
        """All names in order."""
        return [*((self.id,) if self.id else ()), *self.kept, *self.outputs.values(), self.error]

    def as_json(self) -> dict[str, Any]:
        """Return what is needed to read answers back from a published file, and to compare its columns with others."""
        columns = {"id": self.id, "kept": list(self.kept), "outputs": dict(self.outputs)}
        return {**columns, "safe": self.safe, "has_ids": self.has_ids}


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
    # Before the outputs, whose names may give way: a reader finds the reasons under one name in every output.
    error = free_name(ERROR, {*kept, ID})
    wanted = {name: (rename or {}).get(name or VALUE, name) for name in outputs}
    return Layout(
        # A kept column of this name is the user's own, and most often holds the same ids.
        id=ID if has_ids and ID not in kept else None,
        kept=tuple(kept),
        outputs=answer_columns(wanted, {*kept, ID, error}),
        error=error,
        safe=safe,
        has_ids=has_ids,
    )


def unknown_output(rename: Mapping[str, str], outputs: Iterable[str]) -> str | None:
    """Describe the first name in ``rename`` that is no output; None if all are."""
    known = [name or VALUE for name in outputs]
    for name in rename:
        if name not in known:
            listed = ", ".join(f'"{one}"' for one in known)
            return f'there is no output "{name}" to rename{did_you_mean(name, known)}; the outputs are {listed}'
    return None

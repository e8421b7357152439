"""Failed rows by reason: numbers in the reasons are ignored, so that failures of one cause are one line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fanout.types import Failure

_MOST = 12
_EXAMPLES = 3
_COMPARED = 200
_DIGITS = re.compile(r"\d+")


@dataclass(slots=True)
class FailureGroup:
    """Failed rows with one reason.

    Attributes:
        reason: of the first of them.
        n_rows: number of rows.
        examples: the first of them, as row numbers or ranges.
        ids: of the first of them, if the input has ids.
    """

    reason: str
    n_rows: int = 0
    examples: list[str] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)


def group_failures(failures: Iterable[Failure], most: int | None = _MOST) -> list[FailureGroup]:
    """Return the reasons with the most rows first; those beyond the first ``most`` are added up."""
    groups: dict[str, FailureGroup] = {}
    for failure in failures:
        key = _DIGITS.sub("0", failure.reason[:_COMPARED])
        group = groups.setdefault(key, FailureGroup(failure.reason))
        group.n_rows += failure.n_rows
        if len(group.examples) < _EXAMPLES:
            single = failure.stop == failure.start + 1
            group.examples.append(f"{failure.start}" if single else f"{failure.start}:{failure.stop}")
            group.ids.extend(failure.ids[: _EXAMPLES - len(group.ids)])
    ordered = sorted(groups.values(), key=lambda group: -group.n_rows)
    if most is not None and (rest := ordered[most:]):
        ordered[most:] = [FailureGroup(f"{len(rest)} other reasons", sum(group.n_rows for group in rest))]
    return ordered

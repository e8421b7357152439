"""Finds out that the answers of rows differ in length, as those of a tagger do: no array holds them.

One row that is broken looks alike at first, and must not end a run. So it takes two answers, and rows that deviate
in number: those of three lengths and more, or a good part of all.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.types import Chunk, Schema

_Shape: TypeAlias = tuple[int, ...]

# Chunks that are remembered: among so many, most lengths have been seen.
_MOST_CHUNKS = 256

# Of three lengths, one row in 10 has to deviate, of two one in 4, and four rows in all.
_FEW, _SOME = 10, 4

_MOST_SHOWN = 5


class Lengths:
    """Compares the lengths of answers, if the codec does not declare them.

    Rows of length 0 are not counted: servers answer so for rows that failed.

    Args:
        advice: the remedy for the message.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._within: dict[Chunk, Mapping[int, int]] = {}
        self._answers = 0
        self._whole: dict[Chunk, tuple[object, _Shape]] = {}

    def differ_within(self, chunk: Chunk, lengths: Mapping[int, int]) -> str | None:
        """Take in an answer whose rows differ: length -> rows. Returns why no run can succeed, once that is sure."""
        self._answers += 1
        if len(self._within) < _MOST_CHUNKS:
            self._within.setdefault(chunk, lengths)  # the parts of a chunk say nothing new
        # One answer may be broken in any way; another one in the same way is no accident.
        if self._answers < 2:
            return None
        rows = Counter[_Shape]()
        for seen in self._within.values():
            rows.update({(length,): n for length, n in seen.items()})
        return self._judged(rows)

    def differ_between(self, chunk: Chunk, schema: Schema, known: Schema | None, n_known: int) -> str | None:
        """Take in an answer that is not of the schema ``known`` of ``n_known`` others, or while none is known.

        Returns why no run can succeed, once that is sure.
        """
        kind, shape = _parts(schema)
        if len(self._whole) < _MOST_CHUNKS:
            self._whole.setdefault(chunk, (kind, shape))
        seen = Counter(other for of, other in self._whole.values() if of == kind)
        if known is not None and _parts(known)[0] == kind:
            # The answers that agree are not remembered one by one, only counted.
            seen[_parts(known)[1]] = n_known
        return self._judged(seen)

    def _judged(self, rows: Counter[_Shape]) -> str | None:
        common = [(shape, n) for shape, n in rows.most_common() if 0 not in shape]
        deviating = sum(n for _, n in common[1:])
        total = sum(n for _, n in common)
        # A broken server may answer with one wrong length; answers of natural length have many.
        several = len(common) > 2 and deviating > 1 and deviating * _FEW >= total
        if not several and (len(common) < 2 or deviating < _SOME or deviating * _SOME < total):
            return None
        shown = [str(shape[0] if len(shape) == 1 else list(shape)) for shape, _ in sorted(common)]
        listed = ", ".join(shown[:_MOST_SHOWN]) + (", ..." if len(shown) > _MOST_SHOWN else "")
        return f"the answers of the rows differ in length ({listed}), and an array needs one: {self._advice}"


def _parts(schema: Schema) -> tuple[object, _Shape]:
    """Return the part of a schema that answers of different lengths share, and the lengths."""
    kind = tuple((name, dtype, len(shape)) for name, (dtype, shape) in schema.items())
    return kind, tuple(length for _, lengths in schema.values() for length in lengths)

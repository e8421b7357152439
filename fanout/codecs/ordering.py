"""Items of an answer that say which row each of them answers: rerankers sort theirs by score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.codecs._values import Unfit
from fanout.errors import InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INDEX = "index"
"""The field that most APIs use: OpenAI, Cohere, Jina, Voyage, Text Embeddings Inference."""


def in_row_order(items: Sequence[Mapping[str, Any]], field: str = INDEX) -> list[Mapping[str, Any]]:
    """The items of an answer, each in the place that its ``field`` names: for the `decode` of codecs.

    Where no item has the field, the items are as they came. If a single one lacks it, that one takes the place that
    is left. The client then proves that there are as many items as rows.

    Raises:
        InvalidResponse: places that are no whole numbers, that come twice, or that leave gaps.
    """
    try:
        order = order_of([item.get(field) for item in items])
    except Unfit as error:
        raise InvalidResponse(f"the answer {error.args[0]} (field {field!r} of its items)") from None
    return list(items) if order is None else [items[i] for i in order]


def order_of(indices: Sequence[Any]) -> list[int] | None:
    """The positions of the items for row 0, row 1, ...; None if they lie in order, or have no index.

    Raises `Unfit` unless the indices are 0 to n - 1, each once; one may be missing.
    """
    n = len(indices)
    kinds = set(map(type, indices))
    if kinds == {int} and indices == list(range(n)):
        return None
    missing = [i for i, index in enumerate(indices) if index is None]
    if len(missing) == n:
        return None
    if not kinds <= {int, type(None)}:
        raise Unfit("has an index that is no whole number")
    if len(missing) > 1:
        raise Unfit(f"has no index in {len(missing)} of {n} items, though others have one")
    placed = {index: i for i, index in enumerate(indices) if index is not None}
    left = [row for row in range(n) if row not in placed]
    if len(left) != len(missing):
        twice = len(placed) < n - len(missing)
        raise Unfit(
            f"has no item with the index {left[0]}, though {n} came" + (": another comes twice" if twice else "")
        )
    placed.update(zip(left, missing, strict=True))
    return [placed[row] for row in range(n)]

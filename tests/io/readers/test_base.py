"""Parts of a source, whatever it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import InputError
from fanout.io.readers.base import Source
from fanout.types import Block
from tests.io.readers.reading import holds_in_parts, read

if TYPE_CHECKING:
    from collections.abc import Iterator


class Numbers(Source):
    """0, 1, 2, ... in blocks of three, with ids."""

    def __init__(self, n_rows: int, *, known: bool) -> None:
        self.n = n_rows
        self.n_rows = n_rows if known else None

    def blocks(self) -> Iterator[Block]:
        for start in range(0, self.n, 3):
            rows = np.arange(start, min(start + 3, self.n))
            yield Block(rows, [f"id {row}" for row in rows])

    def fingerprint(self) -> dict[str, Any]:
        return {"n": self.n}


@pytest.mark.parametrize("known", [True, False])
def test_any_source_can_be_read_in_part(known):
    holds_in_parts(Numbers(8, known=known), list(range(8)))


BOUNDS = st.one_of(st.none(), st.integers(-12, 12))


@given(first=st.tuples(BOUNDS, BOUNDS), second=st.tuples(BOUNDS, BOUNDS), row=st.integers(0, 9))
def test_slices_of_slices_are_those_of_lists(first, second, row):
    source = Numbers(10, known=True).sliced(slice(*first)).sliced(slice(*second))
    expected = list(range(10))[slice(*first)][slice(*second)]
    assert (source.n_rows, list(read(source))) == (len(expected), expected)
    assert list(read(source, row=row)) == expected[row:]


def test_ids_stay_with_their_rows():
    labels = [label for block in Numbers(8, known=True).sliced(slice(2, 7)).blocks() for label in block.ids]
    assert labels == [f"id {row}" for row in range(2, 7)]


def test_a_slice_from_the_end_needs_the_number_of_rows():
    for rows in (slice(-2, None), slice(0, -1)):
        with pytest.raises(InputError, match="count from the start"):
            Numbers(8, known=False).sliced(rows)
    with pytest.raises(InputError, match="2 cannot be the step"):
        Numbers(8, known=True).sliced(slice(0, 4, 2))


def test_a_slice_has_a_fingerprint_of_its_own():
    source = Numbers(8, known=True)
    assert source.sliced(slice(None)).fingerprint() == source.fingerprint()
    assert source.sliced(slice(-3, None)).fingerprint() == source.sliced(slice(5, 8)).fingerprint()
    assert source.sliced(slice(5, 7)).fingerprint() != source.sliced(slice(5, 8)).fingerprint()


def test_a_slice_reads_no_further_than_its_end():
    class Endless(Numbers):
        def blocks(self) -> Iterator[Block]:
            yield from super().blocks()
            raise AssertionError("read beyond the end")

    assert list(read(Endless(9, known=False).sliced(slice(1, 9)))) == list(range(1, 9))

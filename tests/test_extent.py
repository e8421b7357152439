"""Whether all numbers lie within a bound: never said of NaN, infinity or the bound itself."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fanout.arrays import within


@given(
    st.sampled_from(["f2", "f4", "f8"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_side=0, max_dims=3), elements=st.floats(width=16))
    ),
    st.sampled_from([inf, 1.0, 2.0**11, 2.0**53]),
)
def test_it_is_never_said_of_numbers_beyond(array: np.ndarray, bound: float) -> None:
    doubles = np.abs(array.astype("f8"))
    if within(array, bound):
        assert (doubles < bound).all()
    else:
        assert not (doubles < bound / max(array.size, 1)).all()


@pytest.mark.parametrize("size", [1, 5000])
@pytest.mark.parametrize("bad", [nan, inf, -inf, 8.0, -8.0])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_one_number_is_enough(size: int, bad: float, dtype: str) -> None:
    array = np.zeros(size, dtype)
    assert within(array, 8.0)
    array[-1] = bad
    assert not within(array, 8.0)


def test_numbers_whose_squares_overflow_are_left_to_another_look() -> None:
    assert not within(np.array([1e200]))
    assert within(np.full(5000, 1e200))

"""The range of the numbers of an array, and masked arrays."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fanout.arrays import within
from fanout.codecs import V1, Json, Oip, OpenAIChat, OpenAIEmbeddings
from fanout.engine import as_rows, chunker_of
from fanout.engine.chunker import stacked
from fanout.engine.validator import ResponseValidator
from fanout.errors import EncodeError, InputError, InvalidResponse


@given(
    st.sampled_from(["f2", "f4", "f8"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_side=0, max_dims=3), elements=st.floats(width=16))
    ),
    st.sampled_from([inf, 1.0, 2.0**11, 2.0**53]),
)
def test_numbers_beyond_the_bound_are_never_within(array: np.ndarray, bound: float) -> None:
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


def test_numbers_whose_squares_overflow_may_be_refused() -> None:
    assert not within(np.array([1e200]))
    assert within(np.full(5000, 1e200))


HIDDEN = 987654


def masked(shape=(3, 2), row=1, dtype=np.float64):
    array = np.ma.array(np.arange(np.prod(shape)).reshape(shape).astype(dtype), mask=False)
    array[row] = HIDDEN
    array[row] = np.ma.masked
    return array


def body(codec, rows):
    result = codec.encode(rows).body
    return b"".join(result) if isinstance(result, tuple) else result


CODECS = [Json(), V1(), Oip(input="x"), Oip(input="x", binary=False)]


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 2)])
@pytest.mark.parametrize("codec", CODECS)
def test_no_codec_sends_a_hidden_value(codec, shape):
    for rows in (masked(shape), {"x": masked(shape)}, list(masked(shape)), [{"x": row} for row in masked(shape)]):
        with pytest.raises((InputError, EncodeError), match="mask"):
            codec.encode(rows)


@pytest.mark.parametrize("codec", CODECS)
def test_rows_given_one_by_one_fail_alone(codec):
    with pytest.raises(EncodeError) as caught:
        codec.encode(list(masked()))
    assert caught.value.rows == (1,)


def test_a_masked_value_deep_in_a_row_is_refused():
    with pytest.raises(EncodeError, match="mask") as caught:
        Json().encode([{"a": [np.arange(2)]}, {"a": [masked()[1]]}])
    assert caught.value.rows == (1,)
    with pytest.raises(EncodeError, match="mask"):
        Json().encode([1.0, np.ma.masked])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["f4", "i8", "?"])
def test_a_mask_that_hides_nothing_does_no_harm(codec, dtype):
    plain = np.arange(6).reshape(3, 2).astype(dtype)
    assert body(codec, np.ma.array(plain, mask=False)) == body(codec, plain)
    assert body(codec, [np.ma.array(row) for row in plain]) == body(codec, list(plain))
    assert body(codec, {"x": np.ma.array(plain)}) == body(codec, {"x": plain})


@pytest.mark.parametrize("codec", [OpenAIChat(), OpenAIEmbeddings()])
def test_a_masked_text_is_a_missing_text(codec):
    with pytest.raises((InputError, EncodeError)):
        codec.encode(np.ma.array(["secret"], mask=[True]))


def test_an_input_with_masked_values_is_refused_before_anything_is_sent():
    for rows in (masked(), masked((3,)), {"a": masked()}, np.ma.array(["a", "b"], mask=[0, 1])):
        with pytest.raises(InputError, match=r"1 of . rows, the first in row 1.*filled"):
            as_rows(rows)
    with pytest.raises(InputError, match="column 'a'"):
        as_rows({"a": masked()})


def test_an_input_with_an_empty_mask_is_a_plain_array():
    rows = as_rows(np.ma.array([1.0, 2.0]))
    assert type(rows) is np.ndarray
    assert type(as_rows({"a": np.ma.array([1.0])})["a"]) is np.ndarray


@pytest.mark.parametrize("rows", [list(masked()), iter(masked())])
async def test_rows_that_come_one_by_one_keep_their_masks(rows):
    chunker = chunker_of(rows, 10)
    task = await chunker.get()
    with pytest.raises(EncodeError) as caught:
        Json().encode(task.rows)
    assert caught.value.rows == (1,)
    await chunker.close()


def test_stacking_forgets_no_mask():
    assert isinstance(stacked(list(masked())), list)


def test_an_answer_with_masked_values_is_invalid():
    validator = ResponseValidator({}, reject_nonfinite=True, capacity=2)
    with pytest.raises(InvalidResponse, match="masked"):
        validator.validate(masked(), 3)
    validated = validator.validate(np.ma.array([1.0, 2.0]), 2)[""]
    assert type(validated) is np.ndarray
    assert validated.tolist() == [1.0, 2.0]

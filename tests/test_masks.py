"""Masked arrays: no value below a mask is ever sent, or taken for an answer."""

from __future__ import annotations

import numpy as np
import pytest

from fanout.codecs import V1, Json, Oip, OpenAIChat, OpenAIEmbeddings
from fanout.engine import as_rows, chunker_of
from fanout.engine.chunker import stacked
from fanout.engine.validator import ResponseValidator
from fanout.errors import EncodeError, InputError, InvalidResponse

HIDDEN = 987654


def masked(shape=(3, 2), row=1, dtype=np.float64):
    array = np.ma.array(np.arange(np.prod(shape)).reshape(shape).astype(dtype), mask=False)
    array[row] = HIDDEN
    array[row] = np.ma.masked
    return array


def body(codec, rows):
    made = codec.encode(rows).body
    return b"".join(made) if isinstance(made, tuple) else made


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


def test_a_masked_value_deep_in_a_row_is_found():
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


def test_an_input_whose_mask_hides_nothing_is_a_plain_array():
    rows = as_rows(np.ma.array([1.0, 2.0]))
    assert type(rows) is np.ndarray
    assert type(as_rows({"a": np.ma.array([1.0])})["a"]) is np.ndarray


@pytest.mark.parametrize("rows", [list(masked()), iter(masked())])
async def test_rows_that_come_one_by_one_keep_their_masks(rows):
    chunker = chunker_of(rows, 10)
    task = await chunker.take()
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
    found = validator.validate(np.ma.array([1.0, 2.0]), 2)[""]
    assert type(found) is np.ndarray
    assert found.tolist() == [1.0, 2.0]

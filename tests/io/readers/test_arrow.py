"""The rows that Arrow's types make."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.codecs import codec
from fanout.errors import EncodeError, InputError
from fanout.io.readers.arrow import ArrowColumns, type_in_words, values
from fanout.io.readers.columns import ColumnOptions
from tests.io.readers.reading import plain

TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
NUMBERS = [pa.int8(), pa.int64(), pa.uint16(), pa.float16(), pa.float32(), pa.float64(), pa.bool_()]


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
def test_numbers_are_arrays_of_the_same_dtype(kind):
    column = values(pa.array([0, 1, 1]).cast(kind))
    assert column.dtype == kind.to_pandas_dtype()
    assert column.tolist() == [0, 1, 1]


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
def test_a_missing_number_is_none_among_numbers_of_the_same_dtype(kind):
    column = values(pa.array([0, None, 1]).cast(kind))
    assert column[1] is None
    assert [value.dtype for value in column[::2]] == [kind.to_pandas_dtype()] * 2


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_texts_are_a_list_in_which_a_missing_one_is_none(kind):
    assert values(pa.array(["a", None, ""], pa.string()).cast(kind)) == ["a", None, ""]


def test_numbers_that_are_stored_once_are_an_array():
    column = values(pa.array([7, 5, 7], pa.int16()).dictionary_encode())
    assert (column.dtype, column.tolist()) == (np.int16, [7, 5, 7])


def test_bytes_and_structs_are_as_python_has_them():
    assert values(pa.array([b"\xff", None])) == [b"\xff", None]
    assert values(pa.array([{"role": "user"}, None])) == [{"role": "user"}, None]
    assert values(pa.array([None, None])) == [None, None]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)])
def test_lists_of_one_length_are_an_array(kind):
    column = values(pa.array([[9, 9], [1, 2], [3, 4]], kind)[1:])
    assert (column.dtype, column.tolist()) == (np.float32, [[1, 2], [3, 4]])


def test_lists_of_lists_are_an_array_of_more_axes():
    kind = pa.list_(pa.list_(pa.int16(), 2), 3)
    rows = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    np.testing.assert_array_equal(values(pa.array(rows.tolist(), kind)[1:]), rows[1:])


def test_lists_of_several_lengths_are_a_list_of_arrays():
    column = values(pa.array([[1, 2], [], [3]]))
    assert [row.tolist() for row in column] == [[1, 2], [], [3]]
    assert {row.dtype for row in column} == {np.dtype(np.int64)}


def test_a_missing_list_and_a_missing_number_in_one_concern_their_row_alone():
    column = values(pa.array([[1, 2], None, [3, None]], pa.list_(pa.float32(), 2)))
    assert plain(column) == [[1, 2], None, [3, None]]


def test_tensors_have_their_shape():
    kind = pa.fixed_shape_tensor(pa.float32(), (2, 3))
    rows = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    array = pa.ExtensionArray.from_storage(kind, pa.array(rows.reshape(2, 6).tolist(), pa.list_(pa.float32(), 6)))
    np.testing.assert_array_equal(values(array), rows)
    assert ArrowColumns(pa.schema([("x", kind)]), ColumnOptions(), "t.parquet").schema == {"x": "lists of 6 (float)"}


def test_a_tensor_with_its_axes_in_another_order_is_refused():
    kind = pa.fixed_shape_tensor(pa.float32(), (3, 2), permutation=(1, 0))
    with pytest.raises(InputError, match="which no request can hold"):
        ArrowColumns(pa.schema([("x", kind)]), ColumnOptions(), "t.parquet")


def test_conversations_are_lists_of_messages():
    hello = {"role": "user", "content": "hello"}
    talk = [[hello], [hello, {"role": "assistant", "content": "hi"}]]
    column = values(pa.array(talk))
    assert column == talk
    assert codec("openai-chat").encode(column[:1]).body


ITEMS = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False))),
    st.lists(st.one_of(st.none(), st.text())),
    st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=3))),
    st.lists(st.one_of(st.none(), st.lists(st.lists(st.text(max_size=2), max_size=2), max_size=2))),
    st.lists(st.one_of(st.none(), st.fixed_dictionaries({"a": st.booleans(), "b": st.text(max_size=2)}))),
)


@given(items=ITEMS, start=st.integers(0, 3))
def test_any_array_holds_its_python_values(items, start):
    array = pa.array(items)[start:]
    assert plain(values(array)) == array.to_pylist()


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us"), pa.decimal128(5), pa.map_(pa.string(), pa.int8()), pa.list_(pa.date32())]
)
def test_a_type_that_no_request_has_is_refused(kind):
    with pytest.raises(InputError, match=r'column "when" of t\.parquet has the type .*; cast it') as caught:
        ArrowColumns(pa.schema([("when", kind)]), ColumnOptions(), "t.parquet")
    assert caught.value.key == "input.column"


def test_a_missing_value_fails_its_row_alone():
    numbers = values(pa.array([1.5, None, 2.5], pa.float32()))
    for rows, name, options in [(numbers, "oip", {"input": "x"}), (["a", None, "b"], "openai-embeddings", {})]:
        with pytest.raises(EncodeError) as caught:
            codec(name, **options).encode(rows)
        assert caught.value.rows == (1,)
    oip = codec("oip", input="x")
    assert oip.encode([numbers[0], numbers[2]]) == oip.encode(np.array([1.5, 2.5], np.float32))


def test_types_that_make_the_same_rows_have_one_form():
    assert {type_in_words(kind) for kind in TEXTS} == {"texts"}
    assert (
        type_in_words(pa.list_(pa.float32()))
        == type_in_words(pa.large_list(pa.float32()))
        != type_in_words(pa.list_(pa.float64()))
    )
    assert type_in_words(pa.list_(pa.float32(), 2)) != type_in_words(pa.list_(pa.float32(), 3))

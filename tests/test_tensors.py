"""The tensors of the Open Inference Protocol as bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fanout.tensors import datatype_of, dtype_of, pack, unpack

TEXT = np.dtypes.StringDType()
NUMBERS = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "INT8": "i1", "INT16": "i2",
    "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8",
}  # fmt: skip


@pytest.mark.parametrize(("datatype", "dtype"), NUMBERS.items())
def test_each_datatype_has_its_dtype(datatype, dtype):
    assert dtype_of(datatype) == np.dtype(dtype)
    assert datatype_of(np.dtype(dtype)) == datatype_of(np.dtype(dtype).newbyteorder(">")) == datatype


@pytest.mark.parametrize("dtype", [TEXT, "U3", "S3"])
def test_texts_are_bytes(dtype):
    assert datatype_of(np.dtype(dtype)) == "BYTES"
    assert dtype_of("BYTES") == TEXT


def test_dtypes_that_the_protocol_lacks_have_no_name():
    assert datatype_of(np.dtype("c8")) is None
    assert datatype_of(np.dtype("M8[s]")) is None
    assert dtype_of("FP8") is None


def test_brain_floats_are_widened():
    assert dtype_of("BF16") == np.dtype("f4")
    assert unpack(b"\x80\x3f\x00\xc0", "BF16", [2]).tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    ("bits", "packed"),
    [
        (0x3F800000, 0x3F80),
        (0x3F807FFF, 0x3F80),
        (0x3F808000, 0x3F80),
        (0x3F808001, 0x3F81),
        (0x3F818000, 0x3F82),
        (0x7F800000, 0x7F80),
        (0xFF800000, 0xFF80),
        (0x7FC00000, 0x7FC0),
        (0x7F800001, 0x7FC0),
        (0xFF80FFFF, 0xFFC0),
    ],
)
def test_brain_floats_are_rounded_to_the_nearest_even(bits, packed):
    array = np.array([bits], "<u4").view("<f4")
    assert np.frombuffer(pack(array, "BF16"), "<u2").tolist() == [packed]


@pytest.mark.parametrize("array", [np.arange(6, dtype=">i2").reshape(2, 3), np.arange(6, dtype="i2").reshape(3, 2).T])
def test_numbers_are_little_endian_and_row_major(array):
    assert bytes(pack(array, "INT16")) == array.astype("<i2").tobytes()


def test_numbers_are_not_copied():
    array = np.ones((2, 3), "<f4")
    data = bytes(pack(array, "FP32"))
    assert np.shares_memory(np.frombuffer(pack(array, "FP32"), "<f4"), array)
    assert np.shares_memory(unpack(data, "FP32", [2, 3]), np.frombuffer(data, np.uint8))


def test_texts_have_a_length_each():
    assert pack(np.array(["é", ""]), "BYTES") == b"\2\0\0\0\xc3\xa9\0\0\0\0"
    assert pack(np.array([b"\xff"]), "BYTES") == b"\1\0\0\0\xff"


@pytest.mark.parametrize(
    ("data", "datatype", "shape"),
    [
        (b"\0\0\0", "FP32", [1]),
        (b"\0\0\0\0", "FP32", [2]),
        (b"\0\0\0\0", "FP8", [1]),
        (b"\0", "BF16", [1]),
        (b"\0\0", "BF16", [2]),
        (b"\1\0\0", "BYTES", [1]),
        (b"\2\0\0\0a", "BYTES", [1]),
        (b"\1\0\0\0a", "BYTES", [2]),
        (b"", "BYTES", [1]),
        (b"\1\0\0\0\xff", "BYTES", [1]),
    ],
)
def test_bytes_that_are_no_such_tensor_are_refused(data, datatype, shape):
    with pytest.raises(ValueError):  # noqa: PT011 - numpy words some of them
        unpack(data, datatype, shape)


@given(hnp.arrays(st.sampled_from(list(NUMBERS.values())), hnp.array_shapes(max_dims=3)))
def test_numbers_come_back_as_they_were(array):
    datatype = datatype_of(array.dtype)
    result = unpack(pack(array, datatype), datatype, array.shape)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


@given(st.lists(st.text(), min_size=1))
def test_texts_come_back_as_they_were(texts):
    assert unpack(pack(np.array(texts, TEXT), "BYTES"), "BYTES", [len(texts)]).tolist() == texts

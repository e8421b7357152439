"""The base class of codecs, and the options that it checks."""

from __future__ import annotations

import numpy as np
import pytest

import fanout
from fanout.codecs import OpenAIEmbeddings
from fanout.errors import ConfigError
from fanout.types import Payload, TensorSpec


class Upper(fanout.Codec):
    """As short as a user's own may be."""

    def encode(self, rows):
        return Payload(body=b"")

    def decode(self, response, n_rows):
        return np.zeros(n_rows)


def test_a_codec_of_two_methods_is_a_whole_one(response):
    codec = Upper()
    assert codec.spec == {}
    assert codec.max_rows is None
    assert tuple(codec.metadata_requests("http://host/x")) == ()
    assert codec.with_metadata(()) is codec
    assert codec.classify(response(b"", status=500)) is None
    assert repr(codec) == "<Upper 'custom'>"
    assert codec.nonfinite == "reject"


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({"dtype": "float32"}, {"*": TensorSpec(dtype=np.dtype("f4"))}),
        ({"dtype": "str"}, {"*": TensorSpec(dtype=np.dtypes.StringDType())}),
        ({"dtype": ">i4"}, {"*": TensorSpec(dtype=np.dtype("i4"))}),
        ({"shape": [10, -1, None]}, {"*": TensorSpec(shape=(10, None, None))}),
        ({"shape": []}, {"*": TensorSpec(shape=())}),
        ({"dtype": {"a": "int8"}}, {"a": TensorSpec(dtype=np.dtype("i1"))}),
        (
            {"dtype": "float32", "shape": {"a": [1]}},
            {"*": TensorSpec(dtype=np.dtype("f4")), "a": TensorSpec(dtype=np.dtype("f4"), shape=(1,))},
        ),
    ],
)
def test_dtype_and_shape_make_the_spec(options, spec):
    assert Upper(**options).spec == spec


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dtype", "flot32"),
        ("dtype", "object"),
        ("dtype", "complex64"),
        ("dtype", "M8[s]"),
        ("dtype", "4("),
        ("dtype", 5),
        ("dtype", {"a": "nothing"}),
        ("shape", 10),
        ("shape", "10"),
        ("shape", [1.5]),
        ("shape", [-2]),
        ("shape", {"a": 3}),
        ("nonfinite", "drop"),
    ],
)
def test_a_wrong_base_option_is_named(option, value):
    with pytest.raises(ConfigError) as caught:
        Upper(**{option: value})
    assert caught.value.key == option


def test_a_subclass_with_an_encode_of_its_own_does_not_inherit_the_bodies_of_single_rows():
    class Prefixed(OpenAIEmbeddings):
        def encode(self, rows):
            return super().encode([f"query: {row}" for row in rows])

    class Renamed(OpenAIEmbeddings):
        pass

    assert Prefixed().row_bodies(["a"]) is None
    assert Renamed().row_bodies(["a"]) == [Renamed().encode(["a"]).body]

"""KServe V1 and TensorFlow Serving."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from fanout.codecs import V1
from fanout.errors import ConfigError, InvalidResponse


def test_rows_are_instances():
    rows = {"x": np.ones((1, 2)), "n": np.array([3])}
    assert orjson.loads(V1().encode(rows).body) == {"instances": [{"x": [1.0, 1.0], "n": 3}]}


def test_a_signature_is_sent_if_given():
    assert orjson.loads(V1(signature_name="s").encode([1]).body) == {"signature_name": "s", "instances": [1]}
    with pytest.raises(ConfigError) as caught:
        V1(signature_name=1)
    assert caught.value.key == "signature_name"


def test_it_has_the_path_of_the_protocol():
    assert V1.path.replace("{model}", "m") == "/v1/models/m:predict"


@pytest.mark.parametrize("field", ["predictions", "outputs"])
def test_either_field_is_the_answer(response, field):
    assert V1(dtype="float32").decode(response({field: [[1], [2]]}), 2).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("field", ["predictions", "outputs"])
@pytest.mark.parametrize("values", [{"a": [1, 2], "b": [3, 4]}, [{"a": 1, "b": 3}, {"a": 2, "b": 4}]])
def test_several_outputs_are_named(response, field, values):
    made = V1().decode(response({field: values}), 2)
    assert {name: column.tolist() for name, column in made.items()} == {"a": [1, 2], "b": [3, 4]}


def test_empty_predictions_are_not_passed_over(response):
    assert V1().decode(response({"predictions": [], "outputs": [1]}), 1).shape == (0,)


@pytest.mark.parametrize(
    "document", [{"error": "not ready"}, [1, "not ready"], {"predictions": None, "e": "not ready"}]
)
def test_an_answer_without_either_is_invalid_and_quoted(response, document):
    with pytest.raises(InvalidResponse, match="not ready"):
        V1().decode(response(document), 1)

"""The V1 protocol and the bare JSON route."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.serving.conftest import Recorder, serving

PREDICT = "/v1/models/m:predict"


def test_digits_over_v1(digits, examples):
    """Instances as lists in, probabilities as lists out, equal to the last bit of float32."""
    images, _ = examples
    body = {"instances": images[:3], "signature_name": "serving_default"}
    predictions = digits.post("/v1/models/digits:predict", body)["predictions"]
    expected = digits.model.function(images[:3])
    assert np.array_equal(np.array(predictions, np.float32), expected)


def test_ready(digits):
    """KServe's readiness of one model."""
    assert digits.get("/v1/models/digits") == {"name": "digits", "ready": True}


def test_names_with_colons_are_separated_from_the_verb():
    """`package.module:predict` is a likely name, and looks like a verb."""
    peer = serving(lambda rows: rows)
    object.__setattr__(peer.model, "name", "pkg.mod:predict")
    assert peer.post("/v1/models/pkg.mod:predict:predict", {"instances": [1]}) == {"predictions": [1]}
    assert peer.post("/v1/models/pkg.mod%3Apredict:predict", {"instances": [1]}) == {"predictions": [1]}
    assert peer.get("/v1/models/pkg.mod:predict")["ready"]


@pytest.mark.parametrize("instances", [[[1.5, 2.0]], ["a", "é"], [{"a": [1]}, {"b": None}], [True], [[1], [2, 3]]])
def test_echo_gives_back_any_json(echo, instances):
    """Rows of any kind, unchanged, with both body shapes of `POST /` as well."""
    assert echo.post("/v1/models/echo:predict", {"instances": instances}) == {"predictions": instances}
    assert echo.post("/", {"instances": instances}) == {"predictions": instances}
    assert echo.post("/", instances) == instances


def test_the_function_gets_an_array_or_a_list():
    """Numbers as an array, texts as they are."""
    recorder = Recorder()
    peer = serving(recorder)
    peer.post(PREDICT, {"instances": [[1, 2]]})
    peer.post(PREDICT, {"instances": ["a"]})
    array, texts = recorder.calls
    assert array.tolist() == [[1, 2]]
    assert texts == ["a"]


def test_several_outputs_make_an_object_a_row():
    """As TensorFlow Serving words them, in float32's shortest digits; a single named one stands alone."""
    outputs = {"p": np.array([[0.1, 0.2], [0.3, 0.4]], np.float32), "n": np.array([1, 2]), "t": ["a", "b"]}
    predictions = serving(Recorder(outputs)).post(PREDICT, {"instances": [0, 0]})["predictions"]
    assert predictions == [{"p": [0.1, 0.2], "n": 1, "t": "a"}, {"p": [0.3, 0.4], "n": 2, "t": "b"}]
    single = serving(Recorder({"p": np.array([1.5])})).post(PREDICT, {"instances": [0]})
    assert single == {"predictions": [1.5]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "not JSON"),
        (b'{"instances": [NaN]}', "not JSON"),
        (b'"a"', "not a JSON string"),
        (b"null", "not a JSON null"),
        (b"1", "not a JSON number"),
        (b'{"inputs": [1], "b": 2}', r"keys \['b', 'inputs'\]"),
        (b'{"instances": {"a": 1}}', '"instances" of type object'),
        (b'{"instances": []}', "empty"),
    ],
)
@pytest.mark.parametrize("path", [PREDICT, "/"])
def test_other_bodies_are_refused(body, text, path):
    """400, and the message names the accepted and the given form."""
    error = serving(Recorder()).error(path, body)
    assert re.search(text, error), error


def test_a_list_is_no_v1_body():
    """Only the bare route takes one."""
    assert "not a JSON list" in serving(Recorder()).error(PREDICT, [1])
    assert "empty" in serving(Recorder()).error("/", [])


def test_another_model_is_not_found(digits):
    """404, naming the one that is here."""
    error = digits.error("/v1/models/digit:predict", {"instances": []}, 404)
    assert error == "unknown model 'digit': this server has 'digits'"
    assert digits.send("GET", "/v1/models/digit").status == 404


def test_another_width_is_refused(digits):
    """The row is to blame: 400 lets the client split."""
    assert "(n, 64) or (n, 8, 8)" in digits.error("/v1/models/digits:predict", {"instances": [[0.0] * 63]})


@pytest.mark.parametrize(
    ("result", "text"),
    [(np.array([np.nan]), "NaN or infinity"), (np.array([1j]), "written as JSON"), (np.zeros(2), "has 2 rows")],
)
def test_results_that_cannot_be_written_are_errors(result, text):
    """500, never null."""
    assert text in serving(Recorder(result)).error(PREDICT, {"instances": [0]}, 500)


def test_the_exception_of_a_function_is_reported(capsys):
    """Type and message in the body; the traceback stays with the server."""

    def fail(rows):
        raise ZeroDivisionError("no variance")

    error = serving(fail).error(PREDICT, {"instances": [0]}, 500)
    assert error == "model 'm' failed: ZeroDivisionError: no variance"
    assert "in fail" in capsys.readouterr().err


def test_rows_are_counted(echo):
    """For the server's statistics."""
    assert echo.send("POST", "/", [1, 2, 3]).rows == 3

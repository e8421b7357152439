"""The OpenAI shape of an embeddings API."""

from __future__ import annotations

from base64 import b64decode

import numpy as np
import pytest

from fanout.serving.models import embed
from tests.serving.conftest import Recorder, serving

PATH = "/v1/embeddings"


def test_echo_embeds_texts(echo):
    """The whole answer, as OpenAI words it."""
    texts = ["one text", "another"]
    answer = echo.post(PATH, {"model": "echo", "input": texts})
    assert answer["object"] == "list"
    assert answer["model"] == "echo"
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [(entry["object"], entry["index"]) for entry in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    assert np.array_equal(np.array([entry["embedding"] for entry in answer["data"]], np.float32), embed(texts))


def test_base64_is_little_endian_float32(echo):
    """Equal to the numbers, bit for bit; a single text is a list of one."""
    (entry,) = echo.post(PATH, {"model": "echo", "input": "a text", "encoding_format": "base64"})["data"]
    assert np.array_equal(np.frombuffer(b64decode(entry["embedding"]), "<f4"), embed(["a text"])[0])


def test_dimensions_shorten_to_unit_length(echo):
    """The first ones, of unit length again."""
    (entry,) = echo.post(PATH, {"model": "echo", "input": ["a longer text"], "dimensions": 40})["data"]
    cut = embed(["a longer text"])[0, :40]
    np.testing.assert_allclose(entry["embedding"], cut / np.linalg.norm(cut), rtol=1e-6)


def test_a_vector_without_direction_stays_zero():
    """No NaN, no warning."""
    peer = serving(Recorder(np.array([[0.0, 0.0, 1.0]])))
    assert peer.post(PATH, {"model": "m", "input": "a", "dimensions": 2})["data"][0]["embedding"] == [0, 0]


def test_a_users_function_gets_the_list_of_texts():
    """And returns vectors of any real dtype."""
    recorder = Recorder(lambda texts: np.array([[len(text), 1] for text in texts]))
    answer = serving(recorder).post(PATH, {"model": "m", "input": ["abc", "é"]})
    assert recorder.calls == [["abc", "é"]]
    assert [entry["embedding"] for entry in answer["data"]] == [[3.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("change", "param", "text"),
    [
        ({"model": None}, "model", "provide a model"),
        ({"input": None}, "input", "list of texts"),
        ({"input": [1, 2]}, "input", "token ids"),
        ({"input": []}, "input", "1 to 2048 texts, not 0"),
        ({"input": ["a"] * 2049}, "input", "not 2049"),
        ({"input": ["a", ""]}, "input", "position 1"),
        ({"encoding_format": "hex"}, "encoding_format", "float or base64"),
        ({"dimensions": 0}, "dimensions", "1 to 64, not 0"),
        ({"dimensions": 65}, "dimensions", "not 65"),
        ({"dimensions": True}, "dimensions", "not True"),
    ],
)
def test_other_requests_are_refused(echo, change, param, text):
    """400 in OpenAI's words, with the field at fault."""
    error = echo.error(PATH, {"model": "echo", "input": "a"} | change)
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert text in error["message"]


@pytest.mark.parametrize("body", [b"{", b"[]"])
def test_a_body_that_is_no_object_is_refused(echo, body):
    """In OpenAI's words too."""
    assert echo.error(PATH, body)["type"] == "invalid_request_error"


def test_another_model_is_not_found(echo):
    """404 with OpenAI's code."""
    error = echo.error(PATH, {"model": "ada", "input": "a"}, 404)
    assert error["code"] == "model_not_found"
    assert "'echo'" in error["message"]


def test_digits_does_not_embed(digits):
    """400, and the message names the accepted values."""
    error = digits.error(PATH, {"model": "digits", "input": "seven"})
    assert error["message"] == "model 'digits' does not embed texts: it takes images of shape [-1, 64]"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (np.array([1.0]), "2-D array"),
        (["a"], "2-D array"),
        ({"a": [[1.0]], "b": [[1.0]]}, "2-D array"),
        (np.array([["a"]]), "2-D array"),
        (np.array([[np.nan]]), "NaN"),
        (np.ones((2, 3)), "2 rows for the 1"),
    ],
)
def test_an_answer_other_than_a_vector_a_text_is_an_error_of_the_function(result, text):
    """500 in OpenAI's words."""
    error = serving(Recorder(result)).error(PATH, {"model": "m", "input": "a"}, 500)
    assert error["type"] == "server_error"
    assert text in error["message"]

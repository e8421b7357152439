"""Our codecs pass the conformance suite; a codec with one mistake fails the test that is about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

import fanout
from fanout import Codec, Payload, Response
from fanout.codecs import in_row_order
from fanout.errors import EncodeError
from fanout.testing import CodecTests

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = sorted(name for name in vars(CodecTests) if name.startswith("test_"))


class TestJson(CodecTests):
    def codec(self) -> Codec:
        return fanout.codec("json", request={"a": {"rows": "{{rows}}"}, "k": 1}, answers="b[].score")


class TestJsonIntegers(CodecTests):
    def codec(self) -> Codec:
        return fanout.codec("json", dtype="int64")

    def rows(self, n: int) -> Any:
        return np.arange(2**40, 2**40 + n)


class TestV1(CodecTests):
    def codec(self) -> Codec:
        return fanout.codec("v1", signature_name="s")


class TestV1SeveralOutputs(CodecTests):
    def codec(self) -> Codec:
        return fanout.codec("v1")

    def model(self, rows: Any) -> Any:
        return {"a": rows * 2, "b": rows[:, 0]}


class TestOip(CodecTests):
    def codec(self) -> Codec:
        return fanout.codec("oip")

    def rows(self, n: int) -> Any:
        return np.arange(3 * n, dtype="f4").reshape(n, 3)


class TestOipJson(CodecTests):
    def codec(self) -> Codec:
        return fanout.codec("oip", binary=False)


class TestEmbeddings(CodecTests):
    def codec(self) -> Codec:
        return fanout.codec("openai-embeddings", model="m")

    def rows(self, n: int) -> Any:
        return [f"text {i}" for i in range(n)]

    def model(self, rows: Any) -> Any:
        return np.array([[len(text), int(text[5:]), 0.1] for text in rows], "f4")


class TestEmbeddingsAsNumbers(TestEmbeddings):
    def codec(self) -> Codec:
        return fanout.codec("openai-embeddings", model="m", encoding_format="float")


class TestChat(CodecTests):
    def codec(self) -> Codec:
        return fanout.codec("openai-chat", model="m")

    def rows(self, n: int) -> Any:
        return [f"prompt {i}" for i in range(n)]

    def model(self, rows: Any) -> Any:
        return [f"answer to {text}" for text in rows]

    def expected(self, rows: Any) -> Any:
        texts = np.array(self.model(rows), np.dtypes.StringDType())
        return {"text": texts, "finish_reason": np.array(["stop"] * len(rows), np.dtypes.StringDType())}


class Right(Codec):
    """A codec that makes no mistake; those below make one each."""

    name = "right"
    path = "/right"
    takes_buffers = True

    def encode(self, rows: Any) -> Payload:
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            raise EncodeError("NaN", rows=bad.tolist())
        return Payload(body=orjson.dumps({"instances": rows.tolist()}))

    def row_bodies(self, rows: Any) -> Any:
        return [orjson.dumps({"instances": [row]}) for row in rows.tolist()]

    def decode(self, response: Response, n_rows: int) -> Any:
        return np.array(response.json()["predictions"], np.float64)

    def serve(self, request: Any, model: Any) -> Response:
        rows = np.array(orjson.loads(request.joined())["instances"], np.float64)
        predicted = model(rows).astype(object)
        predicted[np.isnan(model(rows))] = None
        answers = predicted.tolist()
        return Response(status=200, headers={}, body=orjson.dumps({"predictions": answers}))


def decoding(change: Callable[[Codec, Response, int, Any], Any]) -> type[Codec]:
    class Wrong(Right):
        def decode(self, response: Response, n_rows: int) -> Any:
            return change(self, response, n_rows, super().decode(response, n_rows))

    return Wrong


def encoding(change: Callable[[Codec, Any], Payload]) -> type[Codec]:
    class Wrong(Right):
        def encode(self, rows: Any) -> Payload:
            return change(self, rows)

    return Wrong


def numbers(body: bytes) -> list[float]:
    return [float(number) for number in re.findall(rb"[-\d.]+", body)]


class Forgiving(Right):
    """Reads numbers from any body."""

    def decode(self, response: Response, n_rows: int) -> Any:
        parsed = numbers(response.body)
        return np.array([*parsed, *[0.0] * (3 * n_rows)][: 3 * n_rows]).reshape(n_rows, 3)


class Counting(Right):
    """Remembers."""

    calls = 0

    def encode(self, rows: Any) -> Payload:
        self.calls += 1
        payload = super().encode(rows)
        return Payload(body=bytes(payload.body)[:-1] + b', "call": %d}' % self.calls)


class Ranked(Right):
    """Has its answers in items that state their row."""

    def decode(self, response: Response, n_rows: int) -> Any:
        return np.array([item["y"] for item in in_row_order(response.json()["predictions"])], np.float64)

    def serve(self, request: Any, model: Any) -> Response:
        answers = orjson.loads(super().serve(request, model).body)["predictions"]
        items = [{"index": i, "y": answer} for i, answer in enumerate(answers)]
        return Response(status=200, headers={}, body=orjson.dumps({"predictions": items}))


class Heedless(Ranked):
    """Takes them as they come."""

    def decode(self, response: Response, n_rows: int) -> Any:
        return np.array([item["y"] for item in response.json()["predictions"]], np.float64)


class Rounding(Right):
    def row_bodies(self, rows: Any) -> Any:
        return super().row_bodies(rows.round(0))


WRONG: dict[str, type[Codec]] = {
    "test_answers_come_back_as_they_are": decoding(lambda self, response, n, values: values.round(0)),
    "test_the_dtype_is_that_of_every_answer": decoding(
        lambda self, response, n, values: values.astype("f4") if n == 1 else values
    ),
    "test_the_shape_is_rows_first_and_alike_for_any_number_of_rows": decoding(
        lambda self, response, n, values: values[0] if n == 1 else values
    ),
    "test_answers_are_in_the_order_of_the_rows": decoding(
        lambda self, response, n, values: values[np.lexsort(values.T)]
    ),
    "test_items_that_state_their_row_are_placed_by_it": Heedless,
    "test_encoding_and_decoding_leave_no_trace": Counting,
    "test_bodies_of_single_rows_are_those_of_encode": Rounding,
    "test_answers_in_a_buffer_are_read_as_bytes_are": decoding(
        lambda self, response, n, values: values if isinstance(response.body, bytes) else -values
    ),
    "test_a_wrong_number_of_rows_is_refused": decoding(
        lambda self, response, n, values: np.resize(values, (n, *values.shape[1:]))
    ),
    "test_an_empty_or_senseless_answer_is_refused": Forgiving,
    "test_an_answer_that_is_cut_short_is_refused": Forgiving,
    "test_nan_in_an_answer_is_refused": decoding(lambda self, response, n, values: np.nan_to_num(values)),
    "test_nan_in_a_row_is_sent_as_it_is_or_named": encoding(
        lambda self, rows: Payload(body=orjson.dumps({"instances": np.nan_to_num(rows).tolist()}))
    ),
}


def suite(codec: type[Codec]) -> CodecTests:
    class Suite(CodecTests):
        def codec(self) -> Codec:
            return codec()

    return Suite()


def test_there_is_a_mistake_for_every_test() -> None:
    assert sorted(WRONG) == TESTS


@pytest.mark.parametrize("name", TESTS)
def test_a_codec_without_mistakes_passes(name: str) -> None:
    getattr(suite(Ranked if "items" in name else Right), name)()


@pytest.mark.parametrize("name", TESTS)
def test_a_codec_with_one_mistake_fails_the_test_that_is_about_it(name: str) -> None:
    with pytest.raises(AssertionError):
        getattr(suite(WRONG[name]), name)()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("test_answers_come_back_as_they_are", lambda values: values[::-1]),
        ("test_answers_are_in_the_order_of_the_rows", lambda values: values[[0, 2, 1, *range(3, len(values))]]),
        ("test_the_dtype_is_that_of_every_answer", lambda values: values.astype("f4")),
        ("test_the_shape_is_rows_first_and_alike_for_any_number_of_rows", lambda values: values[:, :1]),
        ("test_a_wrong_number_of_rows_is_refused", lambda values: np.resize(values, (7, *values.shape[1:]))),
    ],
)
def test_a_mistake_that_only_more_than_two_rows_show_is_found(name: str, change: Callable[[Any], Any]) -> None:
    codec = decoding(lambda self, response, n, values: change(values) if len(values) > 2 else values)
    with pytest.raises(AssertionError):
        getattr(suite(codec), name)()


def test_a_suite_without_a_codec_names_the_remedy() -> None:
    with pytest.raises(NotImplementedError, match=r"override codec\(\)"):
        CodecTests().test_answers_come_back_as_they_are()

"""A conformance suite for codecs: subclass `CodecTests`, define the codec and its rows, and run pytest."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from unittest import SkipTest

import numpy as np
import orjson

from fanout.engine.validator import ResponseValidator
from fanout.errors import EncodeError
from fanout.mock import MockTransport
from fanout.rows import copy_rows, count_rows, take_rows
from fanout.transport import Request
from fanout.types import DecodedResponse as Decoded
from fanout.types import Response

if TYPE_CHECKING:
    from fanout.codecs.base import Codec
    from fanout.types import Array, Payload, Rows

_URL = "http://codec.invalid"
_GARBAGE = (
    b"", b"{}", b"[]", b"null", b'""', b"0", b"<!doctype html><html></html>", b"\xff\xfe\x00", b'{"error": "no"}',
)  # fmt: skip

# Most places at which an answer is cut.
_CUTS = 300


class CodecTests:
    """Tests that every codec passes. A subclass, called ``Test...``, gives `codec`; and `rows` if they are no numbers.

    ::

        class TestAcme(CodecTests):
            def codec(self):
                return Acme(decimals=3)

    The endpoint is played by the codec's own `serve`, or by the packaged model server at its `path`; override
    `response` if neither knows the format.
    """

    def codec(self) -> Codec:
        """A new instance of the codec to be tested."""
        raise NotImplementedError("override codec() to return the codec to be tested")

    def rows(self, n: int) -> Rows:
        """``n`` rows that can be sent, no two of them alike. By default float64 numbers, shape (n, 3)."""
        # A fraction shows a codec that rounds to integers.
        return np.arange(3.0 * n).reshape(n, 3) + 0.25

    def model(self, rows: Any) -> Any:
        """The output of the endpoint's model for the rows, different for each. By default twice their value."""
        return np.asarray(rows) * 2

    def expected(self, rows: Rows) -> Any:
        """The result that `Codec.decode` has to give for ``rows``, dtype included. By default the model's output."""
        return self.model(rows)

    def response(self, codec: Codec, payload: Payload, model: Any) -> Response:
        """The response of an endpoint with that model to a request."""
        body = payload.body if isinstance(payload.body, tuple) else (payload.body,)
        headers = {"Content-Type": payload.content_type, **payload.headers}
        return _played(codec, Request(method="POST", url=_URL + codec.path, headers=headers, body=body), model)

    def test_answers_come_back_as_they_are(self) -> None:
        """Round trip: `decode` gives the model's output, to the last bit."""
        for n in self._sizes():
            _assert_same(self._answered(self.rows(n)), _named(self.expected(self.rows(n))))

    def test_the_dtype_is_that_of_every_answer(self) -> None:
        """A dtype that depended on the rows of a chunk would make answers that agree look unlike each other."""
        wanted = {name: array.dtype for name, array in _named(self.expected(self.rows(1))).items()}
        for n in self._sizes():
            dtypes = [array.dtype for array in self._answered(self.rows(n)).values()]
            assert dtypes == list(wanted.values()), f"{n} rows gave {dtypes}, wanted {list(wanted.values())}"

    def test_the_shape_is_rows_first_and_alike_for_any_number_of_rows(self) -> None:
        """One row keeps its axis."""
        trailing = [array.shape[1:] for array in _named(self.expected(self.rows(1))).values()]
        for n in self._sizes():
            shapes = [array.shape for array in self._answered(self.rows(n)).values()]
            assert shapes == [(n, *shape) for shape in trailing], f"{n} rows gave shapes {shapes}"

    def test_answers_are_in_the_order_of_the_rows(self) -> None:
        """Rows in reverse have their answers in reverse, and a row alone has the answer that it has among others."""
        n = self._sizes()[-1]
        rows = self.rows(n)
        answers = self._answered(rows)
        # A codec of one row a request has no order to test.
        if n > 1:
            backwards = self._answered(take_rows(rows, np.arange(n)[::-1]))
            _assert_same({name: array[::-1] for name, array in backwards.items()}, answers)
        alone = [self._answered(take_rows(rows, slice(i, i + 1))) for i in range(n)]
        _assert_same({name: np.concatenate([one[name] for one in alone]) for name in answers}, answers)
        first = next(iter(answers.values())).reshape(n, -1)
        # Equal answers would let a codec that mixes rows up pass.
        assert all((first[i] != first[j]).any() for i in range(n) for j in range(i)), (
            "the model gives two rows the same answer"
        )

    def test_items_that_state_their_row_are_placed_by_it(self) -> None:
        """Rerankers sort their answers: an item with an ``index`` is put where it belongs, or the answer is refused."""
        codec, n = self._prepared(), self._sizes()[-1]
        rows = self.rows(n)
        right = self.response(codec, codec.encode(rows), self.model)
        backwards = _reversed_items(right.body, n)
        if n < 2 or backwards is None:
            raise SkipTest("the answer states no order")
        try:
            placed = _decoded(codec, replace(right, status=200, body=backwards), n)
        except Exception:  # noqa: BLE001 - whatever decode raises, the client takes the answer for invalid
            return
        _assert_same(placed, _named(self.expected(rows)))

    def test_encoding_and_decoding_leave_no_trace(self) -> None:
        """The same rows make the same request, in a copy of the codec too; neither rows nor answers are changed."""
        codec = self._prepared()
        rows = self.rows(self._sizes()[-1])
        # Rows may be nested lists, which a shallow copy would share.
        before = copy_rows(rows)
        payload = codec.encode(rows)
        assert _body(payload) == _body(codec.encode(rows)) == _body(copy.copy(codec).encode(rows))
        _assert_same(_named(rows), _named(before))
        response = self.response(codec, payload, self.model)
        first = {name: array.copy() for name, array in _decoded(codec, response, count_rows(rows)).items()}
        _assert_same(_decoded(codec, response, count_rows(rows)), first)

    def test_bodies_of_single_rows_are_those_of_encode(self) -> None:
        """A cache identifies rows by them (`Codec.row_bodies`)."""
        codec, n = self._prepared(), self._sizes()[-1]
        rows = self.rows(n)
        if (bodies := codec.row_bodies(rows)) is None:
            raise SkipTest("the rows are encoded one by one")
        # Nothing else of a request may depend on the row, not even its path.
        alone = [codec.encode(take_rows(rows, slice(i, i + 1))) for i in range(n)]
        assert alone == [replace(payload, body=body) for payload, body in zip(alone, bodies, strict=True)]
        assert len({(one.content_type, one.path, *one.headers.items()) for one in alone}) == 1

    def test_answers_in_a_buffer_are_read_as_bytes_are(self) -> None:
        """Large answers come so to a codec that says that it takes them (`Codec.takes_buffers`)."""
        codec, n = self._prepared(), self._sizes()[-1]
        if not codec.takes_buffers:
            raise SkipTest("the codec is given bytes")
        right = self.response(codec, codec.encode(self.rows(n)), self.model)
        for body in (right.body, *_GARBAGE):
            results = []
            for given in (body, cast("bytes", bytearray(body))):
                try:
                    results.append(_decoded(codec, replace(right, status=200, body=given), n))
                except Exception as error:  # noqa: BLE001 - whatever decode raises, the answer counts as invalid
                    results.append({f"{type(error).__name__}: {error}": np.zeros(0)})
            _assert_same(*results)

    def test_a_wrong_number_of_rows_is_refused(self) -> None:
        """An answer to fewer or more rows is never taken for one to these."""
        n = self._sizes()[-1]
        if n < 2:
            raise SkipTest("the codec sends one row a request")
        codec = self._prepared()
        # A single row may be broadcast by numpy, and one more or less is the usual off-by-one.
        for count in {1, n - 1, n + 1} - {n}:
            response = self.response(codec, codec.encode(self.rows(count)), self.model)
            self._assert_refused(codec, response, n, f"an answer to {count} rows was taken for one to {n}")

    def test_an_empty_or_senseless_answer_is_refused(self) -> None:
        """Empty bodies, other documents, web pages, bytes that are no text."""
        codec = self._prepared()
        right = self.response(codec, codec.encode(self.rows(1)), self.model)
        for body in _GARBAGE:
            self._assert_refused(codec, replace(right, status=200, body=body), 1, f"{body!r} was taken for an answer")

    def test_an_answer_that_is_cut_short_is_refused(self) -> None:
        """Wherever it is cut, unless all that is missing is white space."""
        codec, n = self._prepared(), self._sizes()[-1]
        right = self.response(codec, codec.encode(self.rows(n)), self.model)
        whole = len(right.body.rstrip())
        # The last byte is always cut once, since a parser may ignore a missing bracket.
        for cut in sorted({*range(0, whole, max(1, whole // _CUTS)), whole - 1}):
            message = f"the first {cut} of {whole} bytes were taken for an answer"
            self._assert_refused(codec, replace(right, status=200, body=right.body[:cut]), n, message)

    def test_nan_in_an_answer_is_refused(self) -> None:
        """Unless the codec is set to keep it. In texts there is none."""
        codec, n = self._prepared(), self._sizes()[-1]
        answers = _named(self.expected(self.rows(n)))
        if codec.nonfinite == "keep" or not any(array.dtype.kind == "f" for array in answers.values()):
            raise SkipTest("the answers may hold NaN, or cannot")
        corrupted = self._with_nan(codec, n)
        if not corrupted:
            raise SkipTest("neither the model nor the text of an answer can express NaN")
        for response in corrupted:
            self._assert_refused(codec, response, n, f"NaN was taken for an answer: {response.excerpt()}")

    def test_nan_in_a_row_is_sent_as_it_is_or_named(self) -> None:
        """It never turns into null or 0 on the way: if the format has no NaN, that row alone is refused."""
        rows = copy_rows(self.rows(self._sizes()[-1]))
        if not (isinstance(rows, np.ndarray) and rows.dtype.kind == "f"):
            raise SkipTest("the rows are no array of floats")
        # The last row shows that the others are not blamed.
        rows[-1] = np.nan
        codec = self._prepared()
        refused: tuple[int, ...] | None = None
        try:
            payload = codec.encode(rows)
        except EncodeError as error:
            refused = error.rows
        if refused is not None:
            assert refused == (len(rows) - 1,), f"NaN is in row {len(rows) - 1}, but rows {refused} were refused"
            return
        seen: list[Any] = []

        def witness(came: Any) -> Any:
            seen.append(np.array(came, np.float64))
            return self.model(self.rows(len(rows)))

        self.response(codec, payload, witness)
        assert seen, "the request with NaN in it cannot be read"
        assert np.isnan(seen[0].reshape(len(rows), -1)[-1]).all(), f"NaN was sent as {seen[0][-1]}"

    def _sizes(self) -> list[int]:
        most = self.codec().max_rows
        # One row may lose its axis, two are the least with an order, and seven is no power of two.
        return [n for n in (1, 2, 7) if most is None or n <= most]

    def _prepared(self) -> Codec:
        """The codec with the metadata of the model that it asks for."""
        codec = self.codec()
        url, responses = _URL + codec.path.replace("{model}", "mock"), list[Response]()
        while len(requests := codec.metadata_requests(url, responses)) > len(responses):
            responses.append(_played(codec, Request(method="GET", url=requests[len(responses)]), self.model))
        return codec.with_metadata(responses)

    def _answered(self, rows: Rows) -> dict[str, Array]:
        codec = self._prepared()
        return _decoded(codec, self.response(codec, codec.encode(rows), self.model), count_rows(rows))

    def _with_nan(self, codec: Codec, n: int) -> list[Response]:
        """Answers with NaN in a row, as far as the format can say so."""
        payload = codec.encode(self.rows(n))

        def corrupted(rows: Any) -> Any:
            outputs = {name: np.array(array) for name, array in _named(self.model(rows)).items()}
            for array in outputs.values():
                if array.dtype.kind == "f":
                    array[-1] = np.nan
            return outputs[""] if outputs.keys() == {""} else outputs

        responses = []
        with suppress(EncodeError, ValueError):  # its server may have no word for it
            responses.append(self.response(codec, payload, corrupted))
        right = self.response(codec, payload, self.model)
        floats = next(array for array in _named(self.model(self.rows(n))).values() if array.dtype.kind == "f")
        # A server that cannot express NaN may still be replaced by one that writes it as text.
        written = orjson.dumps(floats[-1].ravel()[0], option=orjson.OPT_SERIALIZE_NUMPY)
        responses += [
            replace(right, status=200, body=right.body.replace(written, word, 1)) for word in (b"NaN", b"null")
        ]
        return [response for response in responses if response.status == 200 and response.body != right.body]

    def _assert_refused(self, codec: Codec, response: Response, n_rows: int, otherwise: str) -> None:
        # The client validates after decoding, and either of the two may refuse an answer.
        validator = ResponseValidator(codec.spec, reject_nonfinite=codec.nonfinite == "reject", capacity=2)
        right = {name: (array.dtype, array.shape[1:]) for name, array in _named(self.expected(self.rows(1))).items()}
        try:
            checked = validator.validate(_decoded(codec, response, n_rows), n_rows)
        except Exception:  # noqa: BLE001 - whatever decode raises, the client takes the answer for invalid
            return
        # The client refuses a response with another schema as soon as another response has shown the schema.
        assert [(array.dtype, array.shape[1:]) for array in checked.values()] != list(right.values()), otherwise


def _reversed_items(body: bytes, n: int) -> bytes | None:
    """A JSON answer whose items, which say that they are those of the rows 0 to n - 1, come in reverse."""
    reversed_any = False

    def turned(value: Any) -> Any:
        nonlocal reversed_any
        if isinstance(value, dict):
            return {key: turned(inner) for key, inner in value.items()}
        if not isinstance(value, list):
            return value
        stated = [item.get("index") if isinstance(item, dict) else None for item in value]
        # Only a list that names every row in order can be turned around without changing its meaning.
        if stated == list(range(n)):
            reversed_any = True
            return value[::-1]
        return [turned(inner) for inner in value]

    try:
        # The order is changed in the text of the answer, so that no server has to support it.
        document = turned(orjson.loads(body))
    except orjson.JSONDecodeError:
        return None
    return orjson.dumps(document) if reversed_any else None


def _played(codec: Codec, request: Request, model: Any) -> Response:
    transport = MockTransport(codec, _URL + codec.path.replace("{model}", "mock"), model)
    return asyncio.run(transport.send(request))


def _decoded(codec: Codec, response: Response, n_rows: int) -> dict[str, Array]:
    assert response.status == 200, f"the endpoint answered {response.status}: {response.excerpt()}"
    values = codec.decode(response, n_rows)
    return _named(values.values if isinstance(values, Decoded) else values)


def _named(values: Any) -> dict[str, Any]:
    outputs = values if isinstance(values, Mapping) else {"": values}
    return {name: array if isinstance(array, np.ndarray) else np.asarray(array) for name, array in outputs.items()}


def _assert_same(actual: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    assert len(actual) == len(wanted), f"there are outputs {list(actual)}, wanted {list(wanted)}"
    alike = [actual[name] for name in wanted] if actual.keys() == wanted.keys() else list(actual.values())
    for array, other in zip(alike, wanted.values(), strict=True):
        np.testing.assert_array_equal(array, other)


def _body(payload: Payload) -> bytes:
    return b"".join(payload.body) if isinstance(payload.body, tuple) else bytes(payload.body)

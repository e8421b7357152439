"""Any JSON API, by a template of its requests and paths in its answers.

KServe's V1 protocol, which is that of TensorFlow Serving, is a case of it:
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - the schema of job files resolves them
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import orjson

from fanout.codecs import _options
from fanout.codecs._answer_reader import AnswerReader, PredictionsReader
from fanout.codecs._answers import Answers, Outputs
from fanout.codecs._bodies import FormBody, RawBody
from fanout.codecs._numbers import AT_ONCE, DOUBLE, LARGE, MOST_MISSES, SimdjsonReader, exact_below
from fanout.codecs._options import (  # noqa: TC001 - the schema of job files resolves them
    DTypeOption,
    OutputOptions,
    PollOptions,
    ShapeOption,
    StatusRule,
)
from fanout.codecs._parsing import small_document
from fanout.codecs._paths import POSITION, Items
from fanout.codecs._request import WORTH_NO_COPY, RequestTemplate
from fanout.codecs._rows import DUMPS
from fanout.codecs.base import Codec
from fanout.errors import ConfigError
from fanout.rows import FEW_NUMBERS, within
from fanout.types import Action, DecodedResponse, Payload, Response, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codecs._typed import TypedAnswers
    from fanout.transport import Request
    from fanout.types import Array, Rows, Values

# Bytes that JMESPath, which is written in Python, searches within some ten milliseconds.
_MOST_FOR_JMESPATH = 128 * 2**10
_CONTAINER_FAILED = 424
_NO_SUCH_PAGE = (404, 405, 410)


class Json(Codec):
    """Rows in a JSON request of any shape, answers in a JSON response of any shape.

    ``request`` is the body, with placeholders in its texts. ``"{{column}}"`` alone is the value of a column in its own
    type, within a text it is formatted; ``"{{row}}"`` is the row, ``"{{rows}}"`` the list of all rows of the request,
    each in the shape of ``item``, and ``"{{column[]}}"`` the list of one column. Without ``{{rows}}`` and lists a
    request carries one row. Filters: ``| json`` (as JSON text), ``| base64``, ``| data_url``,
    ``| text_objects`` (a list of texts as ``[{"text": ...}]``).

    Rows may be arrays of numbers or bool (any rank), texts, lists, dicts, or a mapping of arrays (a row is then an
    object). An answer is a list of numbers, booleans, texts or (nested, rectangular) lists of those -> one array; a
    list of objects with the same fields, or an object of lists -> name -> array. With ``outputs``, answers may have any
    shape.

    Args:
        request: the body, with placeholders; ``{"instances": "{{rows}}"}`` if not given.
        item: the shape of each element of ``{{rows}}``; the row itself if not given.
        path: a path with placeholders, appended to that of the URL; a query may follow. Values are percent-encoded.
        headers: header fields with placeholders.
        missing: ``"null"`` sends null where a row has no value, ``"fail"`` fails the row before it is sent. Within a
            text a missing value always fails.
        raw: in place of ``request``, a body that is one value: ``"{{file}}"`` sends bytes as they are. The content type
            is the one that they show; ``headers`` may set another.
        form: in place of ``request``, the fields of a multipart form: name -> value with placeholders, or a table of
            ``value``, ``filename`` and ``type``. Bytes are sent as files.
        answers: JMESPath of the list of answers; ``"predictions"`` if neither this nor ``request`` is given. Without
            it, the whole response is the list, or the answer to a request of one row.
        outputs: output name -> JMESPath inside one answer, or a table with ``path``, ``type`` (a dtype, ``"str"``, or
            ``"json"`` for a value of any shape, as JSON text), ``shape``, ``null`` (``"fail"`` refuses a missing value,
            ``"keep"`` makes NaN or an empty text of it), and ``order``: path of the indices by which a list is put in
            order.
        order: where an answer states its row: a path inside it, or ``"position"`` if none does. If not given, the field
            ``index`` places answers that have it.
        parse: path inside an answer to a text that holds JSON; ``outputs`` are then found in that.
        fail_when: path in the response or an answer: if it finds anything true, the row fails at once.
        poll: the response is a job, whose result a later GET finds: a table with ``url`` (path to the job's URL in the
            response, or ``"header:NAME"``), ``until`` (path that finds anything true once the job has ended), ``every``
            and ``timeout`` (seconds; 1 and 600), ``result`` (path to the result in the last response, or to its URL),
            ``origins`` (others that these URLs may have; they get no credentials) and ``most`` (jobs that wait at once;
            100).
        schema: the form of the texts at ``parse``, whose fields become the outputs, in place of ``outputs``: see
            `OpenAIChat`. A request carries one row, and ``"{{schema}}"`` in it is the JSON Schema (``| json``: as
            text).
        validate: a function that takes each valid answer, a dict, and raises ValueError to refuse it.
        reasks: times that the request is sent again for an invalid answer.
        max_rows: most rows in one request, where the API has a bound; larger chunks are cut to it.
        dtype, shape, nonfinite, usage, status_rules: see `fanout.Codec`. Numbers are float64 without ``dtype``;
            integers beyond 2**53, or those that the dtype does not hold exactly, make an answer invalid.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name: ClassVar[str] = "json"
    takes_buffers = True
    reader_type = AnswerReader

    def __init__(
        self,
        *,
        request: Any = None,
        item: Any = None,
        path: str | None = None,
        headers: Mapping[str, str] | None = None,
        missing: Literal["null", "fail"] = "null",
        raw: str | None = None,
        form: Mapping[str, Any] | None = None,
        answers: str | None = None,
        outputs: Mapping[str, str | OutputOptions] | None = None,
        order: str | None = None,
        parse: str | None = None,
        fail_when: str | None = None,
        poll: PollOptions | None = None,
        schema: Any = None,
        validate: Any = None,
        reasks: int = 1,
        max_rows: int | None = None,
        dtype: DTypeOption = None,
        shape: ShapeOption = None,
        nonfinite: Literal["reject", "keep"] = "reject",
        usage: Mapping[str, str] | None = None,
        status_rules: Sequence[StatusRule] | None = None,
    ) -> None:
        super().__init__(dtype=dtype, shape=shape, nonfinite=nonfinite, usage=usage, status_rules=status_rules)
        given = {name: one for name, one in (("request", request), ("raw", raw), ("form", form)) if one is not None}
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are each the whole body: give one", key=list(given)[1])
        other = RawBody(raw) if raw is not None else FormBody(form) if form is not None else None
        if not given:
            request, answers = {"instances": "{{rows}}"}, "predictions" if answers is None else answers
        request, typed = _with_schema(request, parse, schema, validate, reasks)
        outputs = outputs if typed is None else None
        answers, order = _options.text_or_none("answers", answers), _options.text_or_none("order", order)
        self._template = RequestTemplate(request, item, path or "", headers, missing=missing, other_body=other)
        self.columns = self._template.columns
        self.max_rows = 1 if self._template.one_row else _options.count_or_none("max_rows", max_rows)
        if poll is not None:
            from fanout.codecs._polling import Polling  # few APIs are asynchronous

            self.polling = Polling(poll, self._usage)
            # The other keys change no answer, so that a run may be resumed with others.
            self.options = {**self.options, "poll": self.polling.identity}
        keep = nonfinite == "keep"
        items = Items(answers, order, one_row=self._template.one_row)
        values = Outputs(outputs or {}, self._spec, keep=keep)
        self._reader = self.reader_type(
            Answers(items, values, parse, fail_when, typed), self._numbers_in, keep=keep,
            usage=self._usage,
        )  # fmt: skip
        if outputs:
            self._spec = {name: output.spec for name, output in values.by_name.items()}
        if typed is not None:
            if not self._template.one_row:
                raise ConfigError("schema needs a request of one row: without {{rows}} and lists", key="schema")
            # The fields of the schema stand in place of the outputs that a preset may have.
            self.options = {name: value for name, value in self.options.items() if name != "outputs"}
            self._type_answers(typed, reasks)
        elif values.keeps_null:  # NaN stands for null, and the outputs refuse any other
            self.nonfinite = "keep"
        self.if_lengths_differ = (
            f'take each as JSON text, with codec.answers = "{items.path.of_texts}" and no codec.dtype, or one '
            "value of each, with an index such as [0] behind its rows"
        )
        if not self._reader.fields:  # only a name can be read in slices
            self.most_bytes_on_loop = _MOST_FOR_JMESPATH

    def encode(self, rows: Rows) -> Payload:
        """The request for ``rows``.

        Raises:
            EncodeError: rows that JSON cannot express (NaN, infinity, bytes, integers beyond 64 bits), that lack a
                value which the template needs, or whose value cannot be a part of a path or a header field.
            InputError: an array of a dtype that cannot be sent, or rows without the columns of the template.
        """
        around = self._template.around
        # Floats that stand between constants need none of the general machinery: orjson writes them from their memory.
        if around is not None and type(rows) is np.ndarray and rows.dtype.char in "fd" and rows.ndim:
            # As `native` asks, without a call.
            as_it_is = rows.dtype.isnative and rows.flags.c_contiguous
            written = orjson.dumps(rows, option=DUMPS) if as_it_is else None
            # orjson writes NaN and infinity as null, the only word here with an n; one byte is found quickest.
            if written is not None and b"n" not in written:
                before, after = around
                copies = len(written) < WORTH_NO_COPY
                return Payload(body=b"%b%b%b" % (before, written, after) if copies else (before, written, after))
        return self._template.encode(rows)

    def decode(self, response: Response, n_rows: int) -> Array | Values | DecodedResponse:
        """The answers, first axis: the rows; with the usage, if paths to it are given. Raises `InvalidResponse`."""
        reader = self._reader
        # Small answers of plain numbers need none of the general machinery.
        quick = reader.quick if len(response.body) <= AT_ONCE else None
        if quick is not None and (numbers := quick.read(response.body)) is not None:
            return numbers
        return reader.read(response, n_rows)

    def serve(self, request: Request, model: Callable[[Any], Any]) -> Response:
        """The response of a mock server: ``model`` of the rows, where the paths of the codec find it.

        A row of named columns is a dict. Raises `ConfigError` for paths that do not show the shape of an answer.
        """
        from fanout.codecs._served import document_for, rows_in  # only mocks need it

        other, body = self._template.other_body, request.joined()
        values = model(rows_in(self._template, orjson.loads(body)) if other is None else [other.row_in(body)])
        body = document_for(values, self._reader.answers, () if self._usage is None else self._usage.paths.values())
        return Response(status=200, headers={"Content-Type": "application/json"}, body=body)

    def classify(self, response: Response) -> Verdict | int | None:
        """A verdict by ``status_rules`` or ``fail_when``, or the container's status, which SageMaker wraps in a 424."""
        if (ruled := super().classify(response)) is not None:
            return ruled
        if response.status in _NO_SUCH_PAGE and self._template.varies_url:
            # A row has chosen the page, so that the row is at fault, and not the endpoint.
            return Verdict(action=Action.SPLIT, reason="", status=response.status)
        succeeded = 200 <= response.status < 300
        if not succeeded and response.status != _CONTAINER_FAILED:
            return None
        document = small_document(response)
        if succeeded:
            refusal = self._reader.answers.refusal(document)
            reason = f"HTTP {response.status}: {refusal}"
            return (
                None
                if refusal is None
                else Verdict(action=Action.FAIL, reason=reason, status=response.status, about_rows=True)
            )
        original = document.get("OriginalStatusCode") if isinstance(document, dict) else None
        return original if isinstance(original, int) and 400 <= original < 600 else None

    def _numbers_in(self, field: str | None) -> NumbersReader | None:
        """A reader of the rows in a field, or in a document that is a list; None for a dtype that it does not read."""
        dtype = _options.spec_for(self._spec, "").dtype or np.dtype(np.float64)
        return NumbersReader(field, dtype) if dtype.kind == "f" else None


def _with_schema(
    request: Any, parse: str | None, schema: Any, validate: Any, reasks: int
) -> tuple[Any, TypedAnswers | None]:
    """Return ``request`` with the schema of the answers, and these; None in their place without a schema."""
    if schema is None and validate is None and type(reasks) is int and reasks >= 0:
        return request, None
    from fanout.codecs._typed import request_for, typed_answers  # few requests have a schema

    typed = typed_answers(schema, validate, reasks)
    return (request if typed is None else request_for(typed, request, parse)), typed


class V1(Json):
    """``instances`` to a model's ``:predict``; ``predictions`` back, or the ``outputs`` of TensorFlow Serving.

    Rows and answers are those of `Json`: several inputs or outputs are objects row by row, outputs may also come as
    an object of columns.

    Args:
        signature_name: the signature of a TensorFlow model to call; the server has a default.
        dtype, shape, nonfinite, usage, status_rules: see `fanout.Codec`.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name: ClassVar[str] = "v1"
    path = "/v1/models/{model}:predict"
    reader_type = PredictionsReader

    def __init__(
        self,
        *,
        signature_name: str | None = None,
        dtype: DTypeOption = None,
        shape: ShapeOption = None,
        nonfinite: Literal["reject", "keep"] = "reject",
        usage: Mapping[str, str] | None = None,
        status_rules: Sequence[StatusRule] | None = None,
    ) -> None:
        signature = _options.text_or_none("signature_name", signature_name)
        request = {"instances": "{{rows}}"} | ({} if signature is None else {"signature_name": signature})
        # Predictions are in the order of the instances, so that a field "index" is an output of the model.
        super().__init__(
            request=request, answers="predictions", order=POSITION,
            dtype=dtype, shape=shape, nonfinite=nonfinite, usage=usage, status_rules=status_rules,
        )  # fmt: skip
        self.if_lengths_differ = f'take the codec "json" for "v1": {self.if_lengths_differ}'


class NumbersReader:
    """Reads answers whose rows are numbers, or lists of numbers of one length, without an object for each number.

    msgspec reads small answers as the type that is expected, simdjson large ones, where it is installed. Both give
    exactly the values of `fanout.codecs._parsing`, or None: they leave an answer of any other structure, and numbers
    whose exactness they cannot show, to the exact parser.

    Args:
        field: name of the field that holds the rows; None: they are the whole document.
        dtype: a floating dtype.
    """

    def __init__(self, field: str | None, dtype: np.dtype[Any]) -> None:
        self._field = field
        self._dtype = dtype
        self._exact_below = exact_below(dtype)
        self._exact_squared = self._exact_below**2
        self._decode: Callable[[bytes], Any] | None = None
        self._nested = True
        self._misses = 0
        self._simdjson = SimdjsonReader() if SimdjsonReader.is_installed() else None

    def read(self, body: bytes) -> Array | None:
        """The array; None where the exact parser has to read the answer."""
        if self._misses >= MOST_MISSES:  # answers of this model have another structure
            return None
        # simdjson starts slowly but makes no Python objects; msgspec knows the type, so it is quicker for small
        # answers.
        if len(body) >= LARGE and self._simdjson is not None:
            doubles = self._simdjson.rows(body, self._field)
        else:
            doubles = self._typed(body)
        # As `within` has it, without a call: a sum of squares below the square of the bound shows it of each number.
        exact = doubles is not None and doubles.size <= FEW_NUMBERS and np.vdot(doubles, doubles) < self._exact_squared
        if doubles is None or not (exact or within(doubles, self._exact_below)):
            self._misses += 1
            return None
        self._misses = 0
        return doubles if self._dtype == DOUBLE else doubles.astype(self._dtype)

    def _typed(self, body: bytes) -> Array | None:
        decode = self._decode or self._typed_decoder()
        try:
            answer = decode(body)
            # msgspec has checked every type, so numpy cannot turn a null or a text into a number here.
            doubles = np.array(answer if self._field is None else answer.values, DOUBLE)
        except (ValueError, RecursionError):
            self._decode, self._nested = None, not self._nested  # the next answer may have the other structure
            return None
        return doubles if doubles.ndim == 1 + self._nested else None

    def _typed_decoder(self) -> Callable[[bytes], Any]:
        import msgspec  # imported with the first answer, so that the start of a command does not pay for it

        rows: Any = list[list[float]] if self._nested else list[float]
        if self._field is not None:
            rows = msgspec.defstruct("Answer", [("values", rows)], rename={"values": self._field}, gc=False)
        self._decode = msgspec.json.Decoder(rows).decode
        return self._decode

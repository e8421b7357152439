"""Any JSON API, by a template of its requests and paths in its answers.

KServe's V1 protocol, which is that of TensorFlow Serving, is a case of it:
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import orjson

from fanout.codecs import _options, _values
from fanout.codecs._answers import POSITION, Answers, Items, OutputOptions, Outputs
from fanout.codecs._bodies import FormBody, RawBody
from fanout.codecs._numbers import AT_ONCE, NumbersReader
from fanout.codecs._options import DTypeOption, ShapeOption  # noqa: TC001 - the schema of job files resolves them
from fanout.codecs._parsing import invalid, read, read_with_usage, small_document
from fanout.codecs._paths import BODY, PLAIN_FIELD, stated_order
from fanout.codecs._polling import Polling, PollOptions
from fanout.codecs._request import RequestTemplate
from fanout.codecs._rules import StatusRule  # noqa: TC001 - as above
from fanout.codecs._slices import Uncut, rows_at
from fanout.codecs._typed import TypedAnswers, typed_answers, with_schema
from fanout.codecs.base import Codec
from fanout.errors import ConfigError
from fanout.exact_json import LIGHT
from fanout.types import Action, DecodedResponse, Payload, Response, TensorSpec, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.transport import Request
    from fanout.types import Array, Rows, Values

# Bytes that JMESPath, which is written in Python, searches within some ten milliseconds.
_MOST_FOR_JMESPATH = 128 * 2**10

# Name of the rows that the items of a slice state, beside their values, and the number for an item without one.
_INDEX, _NONE = "\0index", -1
_MOST_ROWS = 2**40
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
        typed = typed_answers(schema, validate, reasks)
        if typed is not None:
            _require_text(parse, request)
            request, outputs, self.reasks = with_schema(request, typed.schema.schema), None, reasks
        answers, order = _options.text_or_none("answers", answers), _options.text_or_none("order", order)
        self._template = RequestTemplate(request, item, path or "", headers, missing=missing, other_body=other)
        self.columns = self._template.columns
        self.max_rows = 1 if self._template.one_row else _options.count_or_none("max_rows", max_rows)
        self.polling = None if poll is None else Polling(poll, self._usage)
        if self.polling is not None:  # the other keys change no answer, so that a run may be resumed with others
            self.options = {**self.options, "poll": self.polling.identity}
        self._keep = nonfinite == "keep"
        items = Items(answers, order, one_row=self._template.one_row)
        read = Outputs(outputs or {}, self._spec_of, keep=self._keep)
        self._answers = Answers(items, read, parse, fail_when, typed)
        if outputs:
            self._spec = {name: output.spec for name, output in read.by_name.items()}
        if typed is not None:
            self._type_answers(typed)
        elif read.keeps_null:  # NaN stands for null, and `read` refuses any other
            self.nonfinite = "keep"
        # Without a field that only `Answers` reads, the readers of large and of small answers below take part.
        plain = not (items.is_document or outputs or parse or fail_when or items.order)
        field = items.path.expression
        self._path = items.path
        self._quick = self._quick_reader(field) if plain and self._usage is None else None
        self.if_lengths_differ = (
            f'take each as JSON text, with codec.answers = "{self._path.of_texts}" and no codec.dtype, or one '
            "value of each, with an index such as [0] behind its rows"
        )
        self._plain = plain
        self._fields_of_rows = _fields_of_rows(field) if plain else ()
        if not self._fields_of_rows:  # only a name can be read in slices
            self.most_bytes_on_loop = _MOST_FOR_JMESPATH

    def encode(self, rows: Rows) -> Payload:
        """The request for ``rows``.

        Raises:
            EncodeError: rows that JSON cannot express (NaN, infinity, bytes, integers beyond 64 bits), that lack a
                value which the template needs, or whose value cannot be a part of a path or a header field.
            InputError: an array of a dtype that cannot be sent, or rows without the columns of the template.
        """
        return self._template.encode(rows)

    def decode(self, response: Response, n_rows: int) -> Array | Values | DecodedResponse:
        """The answers, first axis: the rows; with the usage, if paths to it are given. Raises `InvalidResponse`."""
        # Small answers of plain numbers need none of the general machinery below.
        quick = self._quick if len(response.body) <= AT_ONCE else None
        if quick is not None and (numbers := quick.read(response.body)) is not None:
            return numbers
        if len(response.body) > LIGHT and (rows := self._in_slices(response)) is not None:
            return rows

        def convert(document: Any) -> Array | Values:
            return self._document_values(document) if self._plain else self._answers.values(document, n_rows)

        exactly = self._answers.computes
        if self._usage is None:
            return read(response, convert, keep=self._keep, exactly=exactly)
        return read_with_usage(response, convert, keep=self._keep, exactly=exactly, count=self._count)

    def serve(self, request: Request, model: Callable[[Any], Any]) -> Response:
        """The response of a mock server: ``model`` of the rows, where the paths of the codec find it.

        A row of named columns is a dict. Raises `ConfigError` for paths that do not show the shape of an answer.
        """
        from fanout.codecs._served import document_for, rows_in  # only mocks need it

        other, body = self._template.other_body, request.joined()
        values = model(rows_in(self._template, orjson.loads(body)) if other is None else [other.row_in(body)])
        body = document_for(values, self._answers, () if self._usage is None else self._usage.paths.values())
        return Response(status=200, headers={"Content-Type": "application/json"}, body=body)

    def classify(self, response: Response) -> Verdict | int | None:
        """A verdict by ``status_rules`` or ``fail_when``, or the container's status, which SageMaker wraps in a 424."""
        if (ruled := super().classify(response)) is not None:
            return ruled
        if response.status in _NO_SUCH_PAGE and self._template.varies_url:
            # A row has chosen the page, so that the row is at fault, and not the endpoint.
            return Verdict(action=Action.SPLIT, reason="", status=response.status)
        document = small_document(response)
        if 200 <= response.status < 300:
            refusal = self._answers.refusal(document)
            reason = f"HTTP {response.status}: {refusal}"
            return (
                None
                if refusal is None
                else Verdict(action=Action.FAIL, reason=reason, status=response.status, about_rows=True)
            )
        original = document.get("OriginalStatusCode") if response.status == 424 and isinstance(document, dict) else None
        return original if isinstance(original, int) and 400 <= original < 600 else None

    def _type_answers(self, typed: TypedAnswers) -> None:
        if not self._template.one_row:
            raise ConfigError("schema needs a request of one row: without {{rows}} and lists", key="schema")
        self._spec = typed.spec
        if typed.keeps_nan:  # the validation of the schema refuses any other
            self.nonfinite = "keep"
        # The fields of the schema stand in place of the outputs that a preset may have.
        self.options = {name: value for name, value in self.options.items() if name != "outputs"}
        self._read_option("schema", typed.schema.document, identity=typed.schema.identity)

    def _count(self, document: Any) -> tuple[Mapping[str, int], None]:
        assert self._usage is not None
        return self._usage.of(document), None

    def _spec_of(self, output: str) -> TensorSpec:
        return self._spec.get(output) or self._spec.get(_options.ANY_OUTPUT) or TensorSpec()

    def _quick_reader(self, field: str) -> NumbersReader | None:
        dtype = self._dtype_of("") or np.dtype(np.float64)
        if dtype.kind != "f" or not (field == BODY or PLAIN_FIELD.fullmatch(field)):
            return None
        return NumbersReader(None if field == BODY else field, dtype)

    def _in_slices(self, response: Response) -> Array | Values | DecodedResponse | None:
        """The rows of a large answer, read in slices; None if it cannot be cut."""
        keep, before = self._keep, set[str | None]()
        for field in self._fields_of_rows:
            with suppress(Uncut):
                rows, rest = rows_at(response, field, self._rows, keep=keep, quick=self._quick_rows)
                if field is not None and not before.isdisjoint(rest):
                    return None  # a field that goes first is there too, but is no list
                placed = self._placed(rows, response)
                return placed if self._usage is None else DecodedResponse(placed, usage=self._usage.of(rest))
            before.add(field)
        return None

    def _quick_rows(self) -> Callable[[bytes], Array | None]:
        dtype = self._dtype_of("") or np.dtype(np.float64)
        return NumbersReader(None, dtype).read if dtype.kind == "f" else lambda _: None

    def _rows(self, rows: Any) -> Array | Values:
        """The values of a slice of rows, with the rows that items state. Raises `Uncut` for odd statements of rows."""
        field = self._path.index
        if not field or not rows or type(rows[0]) is not dict or rows[0].keys() == {field}:
            return _values.outputs(rows, self._wanted)
        stated = [row[field] if type(row) is dict and field in row else _NONE for row in rows]
        if set(map(type, stated)) != {int} or not _NONE <= min(stated) <= max(stated) < _MOST_ROWS:
            raise Uncut
        # The index is removed before the values are read, so that it becomes no output.
        if max(stated) != _NONE:
            rows = [{name: row[name] for name in row if name != field} if type(row) is dict else row for row in rows]
        values = _values.outputs(rows, self._wanted)
        return {**values, _INDEX: np.array(stated, np.int64)} if isinstance(values, Mapping) else values

    def _placed(self, rows: Array | Values, response: Response) -> Array | Values:
        """The values of all slices in the order that the items state."""
        if not isinstance(rows, Mapping) or _INDEX not in rows:
            return rows
        stated = rows[_INDEX].tolist()
        try:
            order = stated_order([None if row == _NONE else row for row in stated], self._path.index)
        except _values.Unfit as error:
            raise invalid(response, error) from None
        return {name: values if order is None else values[order] for name, values in rows.items() if name != _INDEX}

    def _document_values(self, document: object) -> Array | Values:
        answers, index = self._path.find(document)
        values = _values.outputs(answers, self._wanted)
        if not isinstance(values, Mapping):
            return values
        return {name: array for name, array in values.items() if name != index}

    def _wanted(self, output: str) -> _values.Wanted:
        return _values.Wanted(self._dtype_of(output), keep=self._keep)


def _require_text(parse: str | None, request: Any) -> None:
    if parse is None or request is None:
        raise ConfigError("schema needs a request, and the path of the model's text: parse", key="schema")


def _fields_of_rows(field: str) -> tuple[str | None, ...]:
    """The fields in which a large list of rows may be; none for an expression that is more than a name."""
    if field == BODY:
        return (None,)
    return (field,) if PLAIN_FIELD.fullmatch(field) else ()


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
        self._fields_of_rows = ("predictions", "outputs")

    def _document_values(self, document: object) -> Array | Values:
        fields = document if isinstance(document, dict) else {}
        answers = fields.get("predictions", fields.get("outputs"))
        if answers is None:
            raise _values.Unfit("has neither 'predictions' nor 'outputs'")
        return _values.outputs(answers, self._wanted)
